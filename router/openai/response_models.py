"""Response bodies of OpenAI's routes, for the OpenAPI document.

Names are those of OpenAI's own document where TGI's has none. A default of None marks what
only some responses have.
"""

from __future__ import annotations

from typing import Any, Literal

from router.http.json_response import ResponseModel
from router.native.response_models import SimpleToken

FinishReason = Literal["stop", "length", "tool_calls"]


class ErrorObject(ResponseModel):
    """Description of an error."""

    message: str
    """Description of the error."""
    type: str
    """Kind of error, by OpenAI's name."""
    code: str
    """Kind of error, by TGI's name, such as `validation` or `overloaded`."""
    http_status_code: int | None = None
    """HTTP status of an error that occurs in a stream, after the headers."""


class OpenAiErrorResponse(ResponseModel):
    """An error on OpenAI's routes."""

    error: ErrorObject
    """Description of the error."""
    error_type: str
    """Kind of error, by TGI's name."""


class ModelInfo(ResponseModel):
    """A model."""

    id: str
    """Name of the model."""
    object: Literal["model"]
    """Always `model`."""
    created: int
    """Always 0."""
    owned_by: str
    """Name of the model."""


class AdapterInfo(ModelInfo):
    """A LoRA adapter of the served model."""

    root: str
    """Name of the adapter."""
    parent: str
    """Name of the served model."""


class ModelsInfo(ResponseModel):
    """The models that are served."""

    object: Literal["list"]
    """Always `list`."""
    data: list[AdapterInfo | ModelInfo]
    """The models."""


class PromptTokens(ResponseModel):
    """Breakdown of the prompt tokens."""

    cached_tokens: int
    """Number of prompt tokens that came from the prefix cache."""


class Usage(ResponseModel):
    """Token usage. A prompt with several choices is counted once."""

    prompt_tokens: int
    """Number of tokens of the prompts."""
    completion_tokens: int
    """Number of generated tokens."""
    total_tokens: int
    """Sum of both."""
    prompt_tokens_details: PromptTokens
    """Breakdown of the prompt tokens."""


class TopLogprob(ResponseModel):
    """A token and its log-probability."""

    token: str
    """Text of the token."""
    logprob: float
    """Natural logarithm of the token's probability."""
    bytes: list[int]
    """UTF-8 bytes of the text."""


class TokenLogprob(TopLogprob):
    """The generated token and the most likely tokens at its position."""

    top_logprobs: list[TopLogprob]
    """The most likely tokens at this position."""
    drafted: bool = False
    """Whether the token was drafted. Only with `draft_details`."""
    rejected: int = 0
    """Number of drafted tokens that were rejected in favor of this one. Only with `draft_details`.
    """


class ChatLogprobs(ResponseModel):
    """Log-probabilities of a choice, under the model itself."""

    content: list[TokenLogprob]
    """One entry for each token."""


class FunctionCall(ResponseModel):
    """The function that the model calls, and the arguments."""

    name: str | None = None
    """Name of the function; in a stream only in the first chunk of the call."""
    arguments: str
    """Arguments as JSON text; in a stream the part that the chunk adds."""


class ToolCall(ResponseModel):
    """A tool call, or the part of it that a chunk adds."""

    index: int | None = None
    """Index of the call. Only in streams."""
    id: str | None = None
    """Id of the call; in a stream only in the first chunk of the call."""
    type: Literal["function"] | None = None
    """Kind of tool; in a stream only in the first chunk of the call."""
    function: FunctionCall
    """The function and its arguments."""


class OutputMessage(ResponseModel):
    """The assistant's message, or the part of it that a chunk adds."""

    role: Literal["assistant"] | None = None
    """Author of the message; in a stream only in the first chunk."""
    content: str | None = None
    """Text of the message."""
    reasoning_content: str | None = None
    """Reasoning that precedes the message."""
    tool_calls: list[ToolCall] | None = None
    """Tool calls of the message."""


class ChatCompletionComplete(ResponseModel):
    """A choice of a chat completion."""

    index: int
    """Index of the choice."""
    message: OutputMessage
    """The assistant's message."""
    logprobs: ChatLogprobs | None
    """Log-probabilities of the tokens, if requested."""
    finish_reason: FinishReason
    """Why generation stopped."""


class ChatCompletion(ResponseModel):
    """A complete chat completion."""

    object: Literal["chat.completion"]
    """Always `chat.completion`."""
    id: str
    """Id of the completion."""
    created: int
    """Unix time of the request, in seconds."""
    model: str
    """The request's `model`, or the name of the served model."""
    system_fingerprint: str
    """Version of the server."""
    choices: list[ChatCompletionComplete]
    """The choices."""
    usage: Usage
    """Token usage."""
    metrics: dict[str, Any] | None = None
    """Statistics of speculative decoding. Only with speculative decoding."""


class ChatCompletionChoice(ResponseModel):
    """The part of a choice that a chunk adds."""

    index: int
    """Index of the choice."""
    delta: OutputMessage
    """The part of the message that the chunk adds."""
    logprobs: ChatLogprobs | None
    """Log-probabilities of the tokens, if requested."""
    finish_reason: FinishReason | None
    """Why generation stopped, in the last chunk of the choice; otherwise null."""


class ChatCompletionChunk(ResponseModel):
    """One event of a streamed chat completion."""

    object: Literal["chat.completion.chunk"]
    """Always `chat.completion.chunk`."""
    id: str
    """Id of the completion, the same in all chunks."""
    created: int
    """Unix time of the request, in seconds."""
    model: str
    """The request's `model`, or the name of the served model."""
    system_fingerprint: str
    """Version of the server."""
    choices: list[ChatCompletionChoice]
    """The choice that the chunk adds to; empty in the chunk with the final usage."""
    usage: Usage | None
    """Token usage, if requested by `stream_options`."""
    metrics: dict[str, Any] | None = None
    """Statistics of speculative decoding, in the chunk with the final usage."""


class CompletionLogprobs(ResponseModel):
    """Log-probabilities in columns, with one entry for each token, echoed prompt included."""

    tokens: list[str]
    """Texts of the tokens."""
    token_logprobs: list[float | None]
    """Natural logarithms of the tokens' probabilities; null for the first token of the prompt."""
    top_logprobs: list[dict[str, float] | None]
    """The most likely tokens and the chosen one at each position, by text."""
    text_offset: list[int]
    """Offset of each token in the text, in characters."""


class CompletionChoice(ResponseModel):
    """A choice of a completion, or the part of it that an event adds."""

    index: int
    """Index of the choice."""
    text: str
    """The generated text, after the prompt if echoed."""
    logprobs: CompletionLogprobs | None
    """Log-probabilities of the tokens, if requested."""
    finish_reason: FinishReason | None
    """Why generation stopped; null in all but the last event of a choice."""


class Completion(ResponseModel):
    """A complete text completion, or one event of a streamed one."""

    object: Literal["text_completion"]
    """Always `text_completion`."""
    id: str
    """Id of the completion."""
    created: int
    """Unix time of the request, in seconds."""
    model: str
    """Name of the served model."""
    system_fingerprint: str
    """Version of the server."""
    choices: list[CompletionChoice]
    """The choices, prompt by prompt."""
    usage: Usage | None
    """Token usage; in a stream only if requested by `stream_options`."""
    metrics: dict[str, Any] | None = None
    """Statistics of speculative decoding. Only with speculative decoding."""


class ChatTokenizeResponse(ResponseModel):
    """A rendered chat and its tokens."""

    tokenize_response: list[SimpleToken]
    """Tokens of the rendered chat."""
    templated_text: str
    """The chat as rendered by the chat template."""


class ResponseObject(ResponseModel):
    """A response. OpenAI's document describes its items."""

    id: str
    """Id of the response."""
    object: Literal["response"]
    """Always `response`."""
    created_at: int
    """Unix time of the request, in seconds."""
    status: Literal["in_progress", "completed", "incomplete"]
    """Status of the response; `incomplete` if `max_output_tokens` was reached."""
    model: str
    """The request's `model`, or the name of the served model."""
    output: list[dict[str, Any]]
    """Reasoning, messages and function calls, in order."""
    usage: dict[str, Any] | None
    """Token usage, once the response has ended."""


class ResponseEvent(ResponseModel):
    """One event of a streamed response. OpenAI's document describes its other fields."""

    type: str
    """Kind of event, such as `response.output_text.delta`."""
    sequence_number: int
    """Number of the event, from 0."""
