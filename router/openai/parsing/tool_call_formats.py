# ruff: noqa: RUF001 - the full-width bars are DeepSeek's own marks
"""How models write tool calls: the marks around them and what stands between.

A format is found by a mark that the chat template itself writes. `read` turns what stands between
the marks into calls, or None where it is no call; nothing here guesses beyond that. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Call:
    """One call; `arguments` is the JSON text of an object."""

    name: str
    arguments: str


Calls = list[Call] | None


@dataclass(frozen=True, slots=True)
class Format:
    """One family's way. `opening` "" is a whole output that is JSON, `closing` "" its end."""

    opening: str
    closing: str
    read: Callable[[str], Calls]
    marks: tuple[str, ...] = ()
    """More marks that may be special tokens and must reach `read`."""

    @property
    def specials(self) -> frozenset[str]:
        """All marks."""
        return frozenset(filter(None, (self.opening, self.closing, *self.marks)))


def _one(text: str) -> Calls:
    """`{"name": …, "arguments": …}`; Llama says `parameters`."""
    return _calls([_loaded(text)])


def _many(text: str) -> Calls:
    """Several objects, split by semicolons, or an array of them."""
    value = _loaded(text)
    if value is _NOTHING:
        return _calls([_loaded(part) for part in text.split(";") if part.strip()])
    return _calls(value if isinstance(value, list) else [value])


def _mistral(text: str) -> Calls:
    """An array of objects, or names that each stand before their arguments."""
    if text.lstrip().startswith("["):
        return _many(text)
    found = [_MISTRAL.fullmatch(part) for part in text.split("[TOOL_CALLS]")]
    return _named([(part[1], part[2]) for part in found if part]) if all(found) else None


def _deepseek(text: str) -> Calls:
    found = _DEEPSEEK.findall(text)
    return _named([(name or short, body or plain) for name, body, short, plain in found])


def _glm(text: str) -> Calls:
    """GLM's: a name, then keys and values in elements of their own."""
    found = _GLM.fullmatch(text)
    if not found:
        return None
    values = {name.strip(): _value(value) for name, value in _GLM_PAIR.findall(found[2])}
    return [Call(found[1], orjson.dumps(values).decode())]


def _harmony(text: str) -> Calls:
    """A header that names a function, and a message that holds its arguments."""
    header, _, message = text.partition(MESSAGE)
    found = _RECIPIENT.search(header)
    return _named([(found[1], message)]) if found else None


def _coder(text: str) -> Calls:
    """Qwen coder's elements; a value that is JSON is taken as such, any other as text."""
    found = _CODER.fullmatch(text)
    if not found:
        return None
    values = {name: _value(value) for name, value in _PARAMETER.findall(found[2])}
    return [Call(found[1], orjson.dumps(values).decode())]


MESSAGE = "<|message|>"
"""What stands between a header and a message of gpt-oss's."""
_NOTHING: Any = object()
_MISTRAL = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(\{.*\})\s*", re.DOTALL)
_DEEPSEEK = re.compile(
    r"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>([^\n]+)\n```json\n(.*?)\n```"
    r"|([^<\n]+)<｜tool▁sep｜>(.*?))\s*<｜tool▁call▁end｜>",
    re.DOTALL,
)
_CODER = re.compile(r"\s*<function=([^>\n]+)>(.*?)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_GLM = re.compile(r"\s*([\w.-]+)\s*((?:<arg_key>.*</arg_value>)?)\s*", re.DOTALL)
_GLM_PAIR = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>\n?(.*?)\n?</arg_value>", re.DOTALL)
_RECIPIENT = re.compile(r"\bto=functions\.([\w.-]+)")

PLAIN = Format("", "", _many)
_HERMES = Format("<tool_call>", "</tool_call>", _one)
_QWEN_CODER = Format("<tool_call>", "</tool_call>", _coder)
_MISTRALS = Format("[TOOL_CALLS]", "", _mistral, ("[ARGS]", "[CALL_ID]"))
_LLAMA = Format("", "", _many, ("<|python_tag|>",))
_GRANITE = Format("<|tool_call|>", "<|/tool_call|>", _many)
_GLMS = Format("<tool_call>", "</tool_call>", _glm)
HARMONY = Format(
    "<|channel|>",
    "<|call|>",
    _harmony,
    ("<|start|>", "<|constrain|>", MESSAGE, "<|end|>", "<|return|>"),
)
"""gpt-oss's, which is about whole answers: `harmony` reads it."""
_DEEPSEEKS = Format(
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    _deepseek,
    ("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
)
_BY_MARK = (
    ("<|channel|>", HARMONY),
    ("<arg_key>", _GLMS),
    ("<function=", _QWEN_CODER),
    ("<tool_call>", _HERMES),
    ("[TOOL_CALLS]", _MISTRALS),
    ("<｜tool▁calls▁begin｜>", _DEEPSEEKS),
    ("<|tool_call|>", _GRANITE),
    ("<|python_tag|>", _LLAMA),
)
"""The first mark that a template holds decides."""

NAMES = {
    "hermes": _HERMES,
    "qwen3_coder": _QWEN_CODER,
    "mistral": _MISTRALS,
    "deepseek": _DEEPSEEKS,
    "llama3_json": _LLAMA,
    "glm": _GLMS,
    "granite": _GRANITE,
    "harmony": HARMONY,
    "json": PLAIN,
}
"""Those that `--tool-call-parser` may name."""


def of(template: str) -> Format:
    """The format of a chat template; plain JSON where it marks none."""
    return next((format for mark, format in _BY_MARK if mark in template), PLAIN)


def _calls(values: Sequence[Any]) -> Calls:
    pairs = [_pair(value) for value in values]
    return [pair for pair in pairs if pair] if pairs and all(pairs) else None


def _pair(value: Any) -> Call | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = _loaded(arguments)
    if not isinstance(arguments, dict):
        return None
    return Call(value["name"], orjson.dumps(arguments).decode())


def _named(pairs: Sequence[tuple[str, str]]) -> Calls:
    return _calls([{"name": name.strip(), "arguments": text} for name, text in pairs])


def _loaded(text: str) -> Any:
    try:
        return orjson.loads(text.strip().removeprefix("<|python_tag|>"))
    except orjson.JSONDecodeError:
        return _NOTHING


def _value(text: str) -> Any:
    value = _loaded(text)
    return text if value is _NOTHING else value
