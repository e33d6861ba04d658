"""The shapes of OpenAI's answers, as the OpenAPI document tells them.

Names are those of OpenAI's own document where TGI's has none. What only some answers have is marked
by a default of None.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from router.native.response_models import SimpleToken

FinishReason = Literal["stop", "length", "tool_calls"]


class ErrorObject(BaseModel):
    """What went wrong; the status of an event comes after the headers."""

    message: str
    type: str
    code: str
    http_status_code: int | None = None


class OpenAiErrorResponse(BaseModel):
    """An error on OpenAI's routes; `error_type` is TGI's name."""

    error: ErrorObject
    error_type: str


class ModelInfo(BaseModel):
    """A model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelsInfo(BaseModel):
    """The models that are served."""

    object: Literal["list"]
    data: list[ModelInfo]


class PromptTokens(BaseModel):
    """Those of the prompt that came from the prefix cache."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens, the prompt of several choices counted once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokens


class TopLogprob(BaseModel):
    """A likely token."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """The chosen one, and its rivals."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Of each token, the model's own."""

    content: list[TokenLogprob]


class FunctionCall(BaseModel):
    """`arguments` is JSON text."""

    name: str | None = None
    arguments: str


class ToolCall(BaseModel):
    """A call; in a stream `index` says whose part it is."""

    index: int | None = None
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCall


class OutputMessage(BaseModel):
    """The assistant's message, or what a chunk adds to it."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = None


class ChatCompletionComplete(BaseModel):
    """One choice."""

    index: int
    message: OutputMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(BaseModel):
    """A whole answer."""

    object: Literal["chat.completion"]
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatCompletionComplete]
    usage: Usage
    metrics: dict[str, Any] | None = None


class ChatCompletionChoice(BaseModel):
    """What a chunk adds to a choice."""

    index: int
    delta: OutputMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletionChunk(BaseModel):
    """An event."""

    object: Literal["chat.completion.chunk"]
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatCompletionChoice]
    usage: Usage | None
    metrics: dict[str, Any] | None = None


class CompletionLogprobs(BaseModel):
    """In columns, prompt included where it is echoed."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One choice, or what an event adds to it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishReason | None


class Completion(BaseModel):
    """A whole answer, or an event."""

    object: Literal["text_completion"]
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None
    metrics: dict[str, Any] | None = None


class ChatTokenizeResponse(BaseModel):
    """A chat's text and its tokens."""

    tokenize_response: list[SimpleToken]
    templated_text: str


class ResponseObject(BaseModel):
    """A response; OpenAI's document tells its items."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete"]
    model: str
    output: list[dict[str, Any]]
    usage: dict[str, Any] | None


class ResponseEvent(BaseModel):
    """An event of a response's stream."""

    type: str
    sequence_number: int
