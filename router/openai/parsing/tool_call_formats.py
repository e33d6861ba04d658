# ruff: noqa: RUF001 - the full-width bars are DeepSeek's own marks
"""The formats in which models write tool calls: the marks around a call, and the text between them.

A format is detected by a mark in the chat template. `parse` turns the text between the marks into
calls, or returns None if it is not a call; nothing here guesses beyond that. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """One call; `arguments` is a JSON object as text."""

    name: str
    arguments: str


ParsedCalls = list[ParsedCall] | None


@dataclass(frozen=True, slots=True)
class ToolCallFormat:
    """The format of one model family.

    An empty `opening` means that the whole output is JSON, an empty `closing` that a call ends with
    the output.
    """

    opening: str
    closing: str
    parse: Callable[[str], ParsedCalls]
    extra_marks: tuple[str, ...] = ()
    """Further marks that may be special tokens and that `parse` needs."""

    @property
    def special_tokens(self) -> frozenset[str]:
        """All marks of the format."""
        return frozenset(filter(None, (self.opening, self.closing, *self.extra_marks)))


def _single_object(text: str) -> ParsedCalls:
    """`{"name": …, "arguments": …}`, or `parameters` as Llama writes it."""
    return _to_calls([_load_json(text)])


def _objects(text: str) -> ParsedCalls:
    """Several objects separated by semicolons, or an array of objects."""
    value = _load_json(text)
    if value is _INVALID_JSON:
        return _to_calls([_load_json(part) for part in text.split(";") if part.strip()])
    return _to_calls(value if isinstance(value, list) else [value])


def _parse_mistral(text: str) -> ParsedCalls:
    """An array of objects, or names that are each followed by their arguments."""
    if text.lstrip().startswith("["):
        return _objects(text)
    matches = [_MISTRAL_CALL.fullmatch(part) for part in text.split("[TOOL_CALLS]")]
    if not all(matches):
        return None
    return _calls_from_pairs([(match[1], match[2]) for match in matches if match])


def _parse_deepseek(text: str) -> ParsedCalls:
    """DeepSeek's: a name and JSON arguments, in a code block (R1) or not (V3.1)."""
    calls = _DEEPSEEK_CALL.findall(text)
    return _calls_from_pairs([(name or short, body or plain) for name, body, short, plain in calls])


def _parse_glm(text: str) -> ParsedCalls:
    """GLM's: a name, then elements with keys and values."""
    match = _GLM_CALL.fullmatch(text)
    if not match:
        return None
    values = {name.strip(): _json_or_text(value) for name, value in _GLM_ARGUMENT.findall(match[2])}
    return [ParsedCall(match[1], orjson.dumps(values).decode())]


def _parse_harmony(text: str) -> ParsedCalls:
    """gpt-oss's: a header that names a function, and a message with its arguments."""
    header, _, message = text.partition(MESSAGE_MARK)
    recipient = _HARMONY_RECIPIENT.search(header)
    return _calls_from_pairs([(recipient[1], message)]) if recipient else None


def _parse_qwen_coder(text: str) -> ParsedCalls:
    """Qwen3-Coder's: elements; a value that is not JSON is text."""
    match = _QWEN_CODER_CALL.fullmatch(text)
    if not match:
        return None
    values = {name: _json_or_text(value) for name, value in _QWEN_CODER_PARAMETER.findall(match[2])}
    return [ParsedCall(match[1], orjson.dumps(values).decode())]


MESSAGE_MARK = "<|message|>"
"""Between the header and the text of a gpt-oss message."""
_INVALID_JSON: Any = object()
_MISTRAL_CALL = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(\{.*\})\s*", re.DOTALL)
_DEEPSEEK_CALL = re.compile(
    r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>([^\n]+)\n```json\n(.*?)\n```"
    r"|([^<\n]+)<｜tool▁sep｜>(.*?))\s*<｜tool▁call▁end｜>",
    re.DOTALL,
)
_QWEN_CODER_CALL = re.compile(r"\s*<function=([^>\n]+)>(.*?)</function>\s*", re.DOTALL)
_QWEN_CODER_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_GLM_CALL = re.compile(r"\s*([\w.-]+)\s*((?:<arg_key>.*</arg_value>)?)\s*", re.DOTALL)
_GLM_ARGUMENT = re.compile(
    r"<arg_key>(.*?)</arg_key>\s*<arg_value>\n?(.*?)\n?</arg_value>", re.DOTALL
)
_HARMONY_RECIPIENT = re.compile(r"\bto=functions\.([\w.-]+)")

JSON_FORMAT = ToolCallFormat("", "", _objects)
_HERMES_FORMAT = ToolCallFormat("<tool_call>", "</tool_call>", _single_object)
_QWEN_CODER_FORMAT = ToolCallFormat("<tool_call>", "</tool_call>", _parse_qwen_coder)
_MISTRAL_FORMAT = ToolCallFormat("[TOOL_CALLS]", "", _parse_mistral, ("[ARGS]", "[CALL_ID]"))
_LLAMA_FORMAT = ToolCallFormat("", "", _objects, ("<|python_tag|>",))
_GRANITE_FORMAT = ToolCallFormat("<|tool_call|>", "<|/tool_call|>", _objects)
_GLM_FORMAT = ToolCallFormat("<tool_call>", "</tool_call>", _parse_glm)
HARMONY_FORMAT = ToolCallFormat(
    "<|channel|>",
    "<|call|>",
    _parse_harmony,
    ("<|start|>", "<|constrain|>", MESSAGE_MARK, "<|end|>", "<|return|>"),
)
"""gpt-oss's, which covers the whole output and is parsed by `harmony`."""
_DEEPSEEK_FORMAT = ToolCallFormat(
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    _parse_deepseek,
    ("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
)
_FORMAT_BY_MARK = (
    ("<|channel|>", HARMONY_FORMAT),
    ("<arg_key>", _GLM_FORMAT),
    ("<function=", _QWEN_CODER_FORMAT),
    ("<tool_call>", _HERMES_FORMAT),
    ("[TOOL_CALLS]", _MISTRAL_FORMAT),
    ("<｜tool▁calls▁begin｜>", _DEEPSEEK_FORMAT),
    ("<|tool_call|>", _GRANITE_FORMAT),
    ("<|python_tag|>", _LLAMA_FORMAT),
)
"""The first of these marks that the template contains decides."""

FORMATS = {
    "hermes": _HERMES_FORMAT,
    "qwen3_coder": _QWEN_CODER_FORMAT,
    "mistral": _MISTRAL_FORMAT,
    "deepseek": _DEEPSEEK_FORMAT,
    "llama3_json": _LLAMA_FORMAT,
    "glm": _GLM_FORMAT,
    "granite": _GRANITE_FORMAT,
    "harmony": HARMONY_FORMAT,
    "json": JSON_FORMAT,
}
"""The values of `--tool-call-parser`, other than `auto`."""


def detect_format(template: str) -> ToolCallFormat:
    """The format that a chat template uses; plain JSON if it contains no mark."""
    return next((format for mark, format in _FORMAT_BY_MARK if mark in template), JSON_FORMAT)


def _to_calls(values: Sequence[Any]) -> ParsedCalls:
    pairs = [_to_call(value) for value in values]
    return [pair for pair in pairs if pair] if pairs and all(pairs) else None


def _to_call(value: Any) -> ParsedCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _load_json(arguments)
    if not isinstance(arguments, dict):
        return None
    return ParsedCall(value["name"], orjson.dumps(arguments).decode())


def _calls_from_pairs(pairs: Sequence[tuple[str, str]]) -> ParsedCalls:
    return _to_calls([{"name": name.strip(), "arguments": text} for name, text in pairs])


def _load_json(text: str) -> Any:
    try:
        return orjson.loads(text.strip().removeprefix("<|python_tag|>"))
    except orjson.JSONDecodeError:
        return _INVALID_JSON


def _json_or_text(text: str) -> Any:
    value = _load_json(text)
    return text if value is _INVALID_JSON else value
