"""The messages of a chat, as chat templates expect them, or the field that is wrong. Pure.

Clients write the same history in several ways; OpenAI's rules say which are allowed, and what
transformers passes to a template is the one form that comes out. Knows no template.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from router import exact_json
from router.errors import ValidationError
from router.openai.request_models import CalledFunction, Message, Part
from router.requests.rules import require

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
"""OpenAI's; `function` is the older name of `tool`."""
_TEXT_FIELDS = {"refusal": "refusal"} | dict.fromkeys(("text", "input_text", "output_text"), "text")
"""The field with the text, by type of part."""


def template_messages(
    messages: Sequence[Message], *, reads_calls: bool, reads_developer: bool
) -> list[dict[str, Any]]:
    """The messages for a template; the flags say what the template distinguishes.

    Without `reads_developer`, `developer` becomes `system`. Absent content is None only in a
    message with calls, if the template reads them, and otherwise "". Raises ValidationError with
    the path of the field.
    """
    normalized = list(_normalized(messages))
    for message in normalized:
        if message["role"] == "developer" and not reads_developer:
            message["role"] = "system"
        if message["content"] is None and not (reads_calls and "tool_calls" in message):
            message["content"] = ""
    return normalized


def check_role(role: str, path: str) -> None:
    """Raise ValidationError if `role` is not one of OpenAI's."""
    names = ", ".join(f"`{name}`" for name in ROLES)
    require(role in ROLES, f"`{path}` must be one of {names}. Given: `{role[:40]}`")


def content_text(content: str | Sequence[Part] | None, path: str) -> str | None:
    """The text of a message's content, whose parts are joined. Raises ValidationError."""
    if content is None or isinstance(content, str):
        return content
    return "".join(_part_text(part, f"{path}.{index}") for index, part in enumerate(content))


def parse_arguments(arguments: Any, path: str) -> dict[str, Any]:
    """The arguments of a call as an object, empty if there are none. Raises ValidationError."""
    value = arguments
    if isinstance(arguments, str):
        value = _parse_json(arguments, path) if arguments.strip() else None
    if not (value is None or isinstance(value, dict)):
        raise ValidationError(f"`{path}` must be a JSON object")
    return value or {}


def with_reasoning_names(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its reasoning under both names that templates read, as in transformers."""
    reasoning = message.get("reasoning_content")
    return message if reasoning is None else {"thinking": reasoning, **message}


def _normalized(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    function_calls = 0
    for index, message in enumerate(messages):
        function_calls += message.function_call is not None
        yield _normalize(message, f"messages.{index}", f"call{function_calls:05d}")


def _normalize(message: Message, path: str, function_call_id: str) -> dict[str, Any]:
    """`function_call_id`: links a function call to its result, since neither has an id."""
    check_role(message.role, f"{path}.role")
    is_result = message.role == "function"
    text = content_text(message.content, f"{path}.content")
    optional = {
        "name": message.name,
        "tool_calls": _calls(message, path, function_call_id) or None,
        "tool_call_id": function_call_id if is_result else message.tool_call_id,
        "reasoning_content": message.reasoning_content,
    }
    return {
        "role": "tool" if is_result else message.role,
        "content": message.refusal if text is None else text,
        **{name: value for name, value in optional.items() if value is not None},
    }


def _calls(message: Message, path: str, function_call_id: str) -> list[dict[str, Any]]:
    """The tool calls of a message; a function call becomes one."""
    function = message.function_call
    calls = [
        _call(call.function, f"{path}.tool_calls.{index}.function", call.id)
        for index, call in enumerate(message.tool_calls or ())
    ]
    if function is not None:
        calls.append(_call(function, f"{path}.function_call", function_call_id))
    field = "tool_calls" if function is None else "function_call"
    is_assistant = message.role == "assistant"
    require(is_assistant or not calls, f"`{path}.{field}` needs the role `assistant`")
    return calls


def _call(function: CalledFunction, path: str, id: str | None) -> dict[str, Any]:
    arguments = parse_arguments(function.arguments, f"{path}.arguments")
    call = {"type": "function", "function": {"name": function.name, "arguments": arguments}}
    return call if id is None else {"id": id, **call}


def _part_text(part: Part, path: str) -> str:
    require("image" not in part.type, f"`{path}`: image modality is not supported")
    kind = f"`{part.type[:40]}` is not supported as a part of a message"
    require(part.type in _TEXT_FIELDS, f"`{path}`: {kind}")
    field = _TEXT_FIELDS[part.type]
    text: str | None = getattr(part, field)
    require(text is not None, f"`{path}.{field}` is required")
    return text or ""


def _parse_json(text: str, path: str) -> Any:
    try:
        return exact_json.loads(text)
    except ValueError as error:
        raise ValidationError(f"`{path}` is not valid JSON: {error}") from error
