"""The body of `/v1/responses`, and its translation into a chat request.

Whatever needs stored responses, and every tool that is not a function, is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from router.http.json_body import U32, Body, Float32, Json, validate_body
from router.openai.request_models import (
    MAX_FUNCTION_NAME,
    MAX_MESSAGES,
    MAX_TOOLS,
    ChatRequest,
    ModelName,
    NamedTool,
)
from router.openai.responses_input import InputItem, input_messages
from router.openai.unsupported_fields import RESPONSES_FIELDS, RefusesFields
from router.requests.rules import require


class FlatTool(Body):
    """A tool that the model may call."""

    type: str
    """Kind of tool; only `function` is supported."""
    name: Annotated[str, Field(min_length=1, max_length=MAX_FUNCTION_NAME)] | None = None
    """Name of the function."""
    description: str | None = None
    """What the function does, for the model to read."""
    parameters: dict[str, Json] | None = None
    """JSON schema of the function's arguments."""
    strict: bool | None = None
    """Passed on to the chat template. A required call always matches its schema."""


class TextFormat(Body):
    """The format that the text must have."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    """Kind of format; `text` is unconstrained."""
    name: Annotated[str, Field(max_length=256)] | None = None
    """Name of the schema; returned with the response."""
    schema_: Json = Field(default=None, alias="schema")
    """The JSON schema that the text must match."""
    strict: bool | None = None
    """Not used: the text always matches the schema."""


class TextOptions(Body):
    """Options of the text output."""

    format: TextFormat = TextFormat()
    """The format that the text must have."""


class ReasoningOptions(Body):
    """Options of the model's reasoning."""

    effort: Annotated[str, Field(max_length=64)] | None = None
    """How much the model should reason, passed on to the chat template."""


LOGPROBS = "message.output_text.logprobs"
"""The value of `include` that is supported."""
MAX_INCLUDED = 16
"""Maximum length of `include`."""
MAX_METADATA_ENTRIES = 16
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=MAX_METADATA_ENTRIES, fail_fast=True),
]
"""OpenAI's limits; the metadata is part of every response object."""


class ResponsesRequest(RefusesFields):
    """Body of `/v1/responses`."""

    unsupported_fields = RESPONSES_FIELDS

    input: str | Annotated[list[InputItem], Field(fail_fast=True, max_length=MAX_MESSAGES)]
    """The prompt: the text of one user message, or a list of items."""
    model: ModelName | None = None
    """Name to return as the response's `model`. The server always uses the model it serves."""
    instructions: str | None = None
    """System message to put first."""
    max_output_tokens: U32 | None = None
    """Maximum number of tokens to generate. Defaults to the model's `max_new_tokens`, or as many as
    fit into the context."""
    temperature: Float32 | None = None
    """Sampling temperature: higher values make the output more random, 0 means greedy decoding.
    Defaults to the model's, or 1."""
    top_p: Float32 | None = None
    """Nucleus sampling: sample from the smallest set of most likely tokens whose probabilities
    add up to `top_p`. Above 0, at most 1."""
    stream: bool = False
    """Whether to stream the response as server-sent events."""
    text: TextOptions = TextOptions()
    """Options of the text output."""
    tools: Annotated[list[FlatTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    """Tools that the model may call."""
    tool_choice: str | NamedTool | None = None
    """Which tool to call: `none`, `auto`, `required`, or the name of one tool."""
    parallel_tool_calls: bool = True
    """Whether the model may call several tools in one response."""
    reasoning: ReasoningOptions = ReasoningOptions()
    """Options of the model's reasoning."""
    user: str | None = None
    """End-user id, used for fair scheduling between users."""
    include: Annotated[list[str], Field(max_length=MAX_INCLUDED)] | None = None
    """More output to return. Only `message.output_text.logprobs` is supported: the
    log-probabilities of the text's tokens."""
    top_logprobs: U32 | None = None
    """Return this many of the most likely tokens at each position of the text, up to 20. A number
    above 0 returns log-probabilities also without `include`."""
    metadata: Metadata | None = None
    """Up to 16 key-value pairs that are returned with the response."""
    previous_response_id: str | None = None
    """Not supported: responses are not stored, so a request with an id is rejected."""
    background: bool = False
    """Not supported: responses are not stored, so `true` is rejected."""

    @property
    def returns_logprobs(self) -> bool:
        """Whether the text's log-probabilities are returned."""
        return bool(self.include or self.top_logprobs)


def to_chat_body(body: ResponsesRequest) -> ChatRequest:
    """The equivalent chat request.

    Raises ValidationError for what is not supported, and BodyTypeError.
    """
    require(
        body.previous_response_id is None,
        "`previous_response_id` is not supported: responses are not stored",
    )
    require(not body.background, "`background` is not supported: responses are not stored")
    for name in body.include or ():
        require(name == LOGPROBS, f"`include` supports only `{LOGPROBS}`. Given: `{name[:80]}`")
    require(body.max_output_tokens != 0, "`max_output_tokens` must be strictly positive")
    tools = [_nested_tool(tool, f"tools.{index}") for index, tool in enumerate(body.tools or ())]
    messages = list(_messages(body))
    require(bool(messages), "`input` cannot be empty")
    fields = {
        "model": body.model,
        "messages": messages,
        "max_tokens": body.max_output_tokens,
        "logprobs": body.returns_logprobs,
        "top_logprobs": body.top_logprobs,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "tools": tools or None,
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": _response_format(body.text.format),
        "reasoning_effort": body.reasoning.effort,
        "user": body.user,
        "stream": body.stream,
    }
    choice = body.tool_choice
    plain = choice.model_dump() if isinstance(choice, NamedTool) else choice
    return validate_body({**fields, "tool_choice": plain}, ChatRequest)


def _messages(body: ResponsesRequest) -> Iterator[dict[str, Any]]:
    if body.instructions:
        yield {"role": "system", "content": body.instructions}
    if isinstance(body.input, str):
        yield {"role": "user", "content": body.input}
        return
    yield from input_messages(body.input)


def _nested_tool(tool: FlatTool, path: str) -> dict[str, Any]:
    require(tool.type == "function", f"`{tool.type[:40]}` is not supported as a tool")
    require(tool.name is not None, f"`{path}.name` is required")
    return {"type": "function", "function": tool.model_dump(exclude={"type"})}


def _response_format(text_format: TextFormat) -> dict[str, Any]:
    if text_format.type != "json_schema":
        return {"type": text_format.type, "schema": text_format.schema_}
    schema = {"name": text_format.name, "schema": text_format.schema_, "strict": text_format.strict}
    return {"type": "json_schema", "json_schema": schema}
