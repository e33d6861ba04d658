"""The `input` of `/v1/responses`: its items, and the messages of a chat that they stand for. Pure.

One turn of the assistant is several items (reasoning, messages, function calls) but one message of
a chat, as templates expect turns to alternate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from pydantic import Field

from router.errors import ValidationError
from router.http.json_body import Body, JsonOrText
from router.openai.history import check_role, content_text, parse_arguments
from router.openai.request_models import ContentParts
from router.requests.rules import require


class InputItem(Body):
    """A message, a function call that the model made, or the output of one."""

    type: str = "message"
    """Kind of item: `message`, `function_call`, `function_call_output` or `reasoning`."""
    role: str | None = None
    """Author of a message, such as `system`, `developer`, `user` or `assistant`."""
    content: str | ContentParts | None = None
    """Content of a message or of reasoning, as text or as a list of text parts."""
    summary: ContentParts = Field(default_factory=list)
    """Summary of reasoning, used if the reasoning has no content."""
    call_id: str | None = None
    """Id of the function call."""
    name: str | None = None
    """Name of the called function."""
    arguments: JsonOrText = None
    """Arguments of the function call, as JSON text or as an object."""
    output: str | ContentParts | None = None
    """Output of the function call, as text or as a list of text parts."""


def input_messages(items: Sequence[InputItem]) -> Iterator[dict[str, Any]]:
    """The messages of a chat, in which each run of the assistant's items is one.

    Raises ValidationError with the path of the field.
    """
    messages = [_message(item, f"input.{index}") for index, item in enumerate(items)]
    for role, run in groupby(messages, itemgetter("role")):
        if role == "assistant":
            yield from _merge(list(run))
        else:
            yield from run


def _merge(run: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One message of the assistant; none if there is only reasoning, which answers nothing."""
    contents = [message["content"] for message in run if "content" in message]
    reasoning = [message["reasoning_content"] for message in run if "reasoning_content" in message]
    calls = [call for message in run for call in message.get("tool_calls", ())]
    if contents or calls:
        yield {
            "role": "assistant",
            "content": "\n".join(contents) if contents else None,
            "tool_calls": calls,
            "reasoning_content": "\n".join(filter(None, reasoning)) or None,
        }


def _message(item: InputItem, path: str) -> dict[str, Any]:
    if item.type == "message":
        if item.role is None:
            raise ValidationError(f"`{path}.role` is required")
        check_role(item.role, f"{path}.role")
        text = content_text(item.content, f"{path}.content")
        return {"role": item.role, "content": text or ""}
    if item.type == "function_call":
        return {"role": "assistant", "tool_calls": [_call(item, path)]}
    if item.type == "function_call_output":
        text = content_text(item.output, f"{path}.output")
        return {"role": "tool", "tool_call_id": item.call_id, "content": text}
    kind = f"`{item.type[:40]}` is not supported as an item of `input`"
    require(item.type == "reasoning", f"`{path}.type`: {kind}")
    return {"role": "assistant", "reasoning_content": _reasoning(item)}


def _reasoning(item: InputItem) -> str:
    if isinstance(item.content, str):
        return item.content
    return "\n".join(part.text for part in item.content or item.summary if part.text)


def _call(item: InputItem, path: str) -> dict[str, Any]:
    require(bool(item.name), f"`{path}.name` is required")
    arguments = parse_arguments(item.arguments, f"{path}.arguments")
    function = {"name": item.name, "arguments": arguments}
    return {"id": item.call_id, "type": "function", "function": function}
