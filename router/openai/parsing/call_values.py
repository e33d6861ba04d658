"""From the JSON that a model wrote to calls; arguments stay the text that the model wrote. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from router.openai.parsing.json_scanner import decode_string, is_json, json_items

Tools = Mapping[str, Mapping[str, Any]]
"""The JSON schema of each tool's arguments, by the tool's name; {} if it has none."""


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """One call; `arguments` is a JSON object as text."""

    name: str
    arguments: str


ParsedCalls = tuple[ParsedCall, ...] | None


def calls_in(value: str) -> ParsedCalls:
    """The calls in a complete JSON value, an object or an array of them; None if it is no call.

    A call is `{"name": …, "arguments": …}`, or has `parameters` as Llama writes it. Small models
    also write the name as `function`, or the call inside of it as in OpenAI's API.
    """
    values = json_items(value) if value.startswith("[") else [value]
    calls = [call for call in map(_call_in, values) if call is not None]
    return tuple(calls) if calls and len(calls) == len(values) else None


def named_call(name: str, arguments: str) -> ParsedCalls:
    """The call of `name` with `arguments`, a JSON value as text or ""; None if it is no call."""
    text = _arguments_object(arguments)
    return None if text is None else (ParsedCall(name.strip(), text),)


def _call_in(value: str) -> ParsedCall | None:
    if not value.startswith("{"):
        return None
    members = _members(value)
    function = members.get("function", "")
    if "name" not in members and function.startswith("{"):
        members = _members(function)
    name = members.get("name", function)
    text = decode_string(name) if name.startswith('"') else None
    arguments = _arguments_object(members.get("arguments", members.get("parameters", "")))
    return None if text is None or arguments is None else ParsedCall(text, arguments)


def _members(value: str) -> dict[str | None, str]:
    """The members of a JSON object, each as text, by key."""
    items = json_items(value)
    keys = [decode_string(key) for key in items[::2]]
    return dict(zip(keys, items[1::2], strict=True))


def _arguments_object(value: str) -> str | None:
    """The object that `value` is, or that it holds as a string; {} for null and for nothing."""
    text = value.strip()
    if text.startswith('"') and is_json(text):
        decoded = decode_string(text)
        if decoded is None:
            return None
        text = decoded.strip()
    if text in ("", "null"):
        return "{}"
    return text if text.startswith("{") and is_json(text) else None
