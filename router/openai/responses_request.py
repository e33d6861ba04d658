"""The body of `/v1/responses`, and the chat that asks the same.

What needs a memory, and every tool that is no function, is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from router.errors import ValidationError
from router.http.json_body import U32, Body, Float32, Json, validate_body
from router.openai.request_models import (
    MAX_MESSAGES,
    MAX_TOOLS,
    ChatBody,
    ContentParts,
    NamedTool,
    Part,
)


class InputItem(Body):
    """A message, a call that the model made, or what a call gave."""

    type: str = "message"
    role: str | None = None
    content: str | ContentParts | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | ContentParts | None = None


class FlatTool(Body):
    """A tool, with its fields beside its type."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Json] | None = None
    strict: bool | None = None


class TextFormat(Body):
    """What the text must be."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema_: Json = Field(default=None, alias="schema")
    strict: bool | None = None


class TextOptions(Body):
    """How text is written."""

    format: TextFormat = TextFormat()


class ReasoningOptions(Body):
    """How much the model thinks."""

    effort: str | None = None


MAX_METADATA_ENTRIES = 16
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=MAX_METADATA_ENTRIES, fail_fast=True),
]
"""As much as OpenAI takes; it is told again with every state of the response."""


class ResponsesBody(Body):
    """Body of `/v1/responses`."""

    input: str | Annotated[list[InputItem], Field(fail_fast=True, max_length=MAX_MESSAGES)]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: U32 | None = None
    temperature: Float32 | None = None
    top_p: Float32 | None = None
    stream: bool = False
    text: TextOptions = TextOptions()
    tools: Annotated[list[FlatTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: str | NamedTool | None = None
    parallel_tool_calls: bool = True
    reasoning: ReasoningOptions = ReasoningOptions()
    user: str | None = None
    metadata: Metadata | None = None
    previous_response_id: str | None = None
    background: bool = False


def to_chat_body(body: ResponsesBody) -> ChatBody:
    """The chat that asks the same.

    Raises ValidationError for what needs a memory, or is no function, and Mistyped.
    """
    if body.previous_response_id is not None:
        raise ValidationError("`previous_response_id` is not supported: responses are not stored")
    if body.background:
        raise ValidationError("`background` is not supported: responses are not stored")
    messages = list(_messages(body))
    if not messages:
        raise ValidationError("`inputs` cannot be empty")
    given = {
        "model": body.model,
        "messages": messages,
        "max_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "tools": [_nested_tool(tool) for tool in body.tools or ()] or None,
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": _response_format(body.text.format),
        "reasoning_effort": body.reasoning.effort,
        "user": body.user,
        "stream": body.stream,
    }
    choice = body.tool_choice
    plain = choice.model_dump() if isinstance(choice, NamedTool) else choice
    return validate_body({**given, "tool_choice": plain}, ChatBody)


def _messages(body: ResponsesBody) -> Iterator[dict[str, Any]]:
    if body.instructions:
        yield {"role": "system", "content": body.instructions}
    if isinstance(body.input, str):
        yield {"role": "user", "content": body.input}
        return
    calls: list[dict[str, Any]] = []
    for item in body.input:
        if item.type == "function_call":
            calls.append(_assistant_call(item))
            continue
        if calls:
            yield {"role": "assistant", "tool_calls": calls}
            calls = []
        if item.type != "reasoning":  # what it thought is no part of what it said
            yield _message(item)
    if calls:
        yield {"role": "assistant", "tool_calls": calls}


def _message(item: InputItem) -> dict[str, Any]:
    if item.type == "function_call_output":
        return {
            "role": "tool",
            "tool_call_id": item.call_id,
            "content": _content_fields(item.output),
        }
    if item.type != "message" or item.role is None:
        raise ValidationError(f"`{item.type[:40]}` is not supported as an item of `input`")
    return {"role": item.role, "content": _content_fields(item.content)}


def _content_fields(content: str | list[Part] | None) -> Any:
    return [part.model_dump() for part in content] if isinstance(content, list) else content


def _assistant_call(item: InputItem) -> dict[str, Any]:
    function = {"name": item.name or "", "arguments": item.arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _nested_tool(tool: FlatTool) -> dict[str, Any]:
    if tool.type != "function":
        raise ValidationError(f"`{tool.type[:40]}` is not supported as a tool")
    return {"type": "function", "function": tool.model_dump(exclude={"type"})}


def _response_format(text_format: TextFormat) -> dict[str, Any]:
    if text_format.type != "json_schema":
        return {"type": text_format.type}
    schema = {"name": text_format.name, "schema": text_format.schema_, "strict": text_format.strict}
    return {"type": "json_schema", "json_schema": schema}
