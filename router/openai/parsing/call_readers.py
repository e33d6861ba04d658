# ruff: noqa: RUF001 - the full-width bars are DeepSeek's own marks
"""Reads the calls of each JSON format from text that arrives piece by piece.

A reader is a generator that begins after the format's opening mark. It yields None when it needs
more text, and calls as soon as their JSON is complete; it returns whether the text up to the
cursor belongs to the format, or else is content. JSON is scanned, so that marks inside of strings
are text. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TypeVar

from router.openai.parsing.call_values import ParsedCall, Tools, calls_in, named_call
from router.openai.parsing.json_scanner import JsonScanner


class Cursor:
    """Text so far, and how much of it has been read."""

    def __init__(self) -> None:
        self.text = ""
        self.position = 0
        self.is_last = False
        """Whether no text follows."""

    def drop_read(self) -> str:
        """Remove the text before the position, and return it."""
        text, self.text = self.text[: self.position], self.text[self.position :]
        self.position = 0
        return text


Result = TypeVar("Result")
Waiting = Generator[None, None, Result]
"""Yields whenever more text is needed."""
CallReader = Generator[tuple[ParsedCall, ...] | None, None, bool]

MISTRAL_OPENING = "[TOOL_CALLS]"
DEEPSEEK_CALL, DEEPSEEK_SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"
DEEPSEEK_CALL_END, DEEPSEEK_END = "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"
_MISTRAL_HEADER = re.compile(
    r"\s*([\w.-]{1,256})\s*(?:\[CALL_ID\]\s*[\w-]{1,256}\s*)?(\[ARGS\]|(?=\{))"
)
_MISTRAL_PARTIAL_HEADER = re.compile(r"[\s\w.\-\[\]]{0,600}\Z")
_CODE_FENCE = "```"
_LINE = re.compile(r"[ \t]*([^\n]{1,256})\n\s*```(?:json)?\n")
_MAX_HEADER_LENGTH = 600


def read_hermes(cursor: Cursor, tools: Tools) -> CallReader:
    """Objects `{"name": …, "arguments": …}`, or arrays of them, before `</tool_call>`."""
    while (yield from _read_json_calls(cursor, "")):
        is_closed = yield from _accepts(cursor, "</tool_call>")
        if is_closed or not (yield from _starts_json(cursor)):
            return True
    return False


def read_granite(cursor: Cursor, tools: Tools) -> CallReader:
    """An array of objects, with or without an end mark."""
    return _read_json_calls(cursor, "<|/tool_call|>")


def read_bare_json(cursor: Cursor, tools: Tools) -> CallReader:
    """Objects or arrays of objects, separated by white space or semicolons."""
    while True:
        is_call = yield from _read_json_calls(cursor, ";")
        if not is_call:
            return False
        if not (yield from _starts_json(cursor)):
            return True


def read_mistral(cursor: Cursor, tools: Tools) -> CallReader:
    """An array of objects, or a name followed by its arguments."""
    if (yield from _starts_json(cursor)):
        return (yield from _read_json_calls(cursor, ""))
    header = yield from _match(cursor, _MISTRAL_HEADER, _MISTRAL_PARTIAL_HEADER)
    if header is None:
        return False
    is_empty = yield from _accepts(cursor, MISTRAL_OPENING, consume=False)
    value = "" if is_empty else (yield from _take_json(cursor))
    if value is None and not cursor.text[cursor.position :].strip() and header[2]:
        value = ""
    calls = None if value is None else named_call(header[1], value)
    if calls is None:
        return False
    yield calls
    return True


def read_deepseek(cursor: Cursor, tools: Tools) -> CallReader:
    """Calls of a name and JSON arguments, in a code block (R1) or not (V3.1)."""
    has_calls = False
    while (yield from _accepts(cursor, DEEPSEEK_CALL)):
        calls = yield from _take_deepseek_call(cursor)
        if calls is None:
            return False
        yield calls
        has_calls = True
        yield from _accepts(cursor, _CODE_FENCE)
        yield from _accepts(cursor, DEEPSEEK_CALL_END)
    yield from _accepts(cursor, DEEPSEEK_END)
    return has_calls


def _read_json_calls(cursor: Cursor, closing: str) -> CallReader:
    value = yield from _take_json(cursor)
    calls = None if value is None or value[0] not in "{[" else calls_in(value)
    if calls is None:
        return False
    yield calls
    if closing:
        yield from _accepts(cursor, closing)
    return True


def _take_deepseek_call(cursor: Cursor) -> Waiting[tuple[ParsedCall, ...] | None]:
    name = yield from _take_until(cursor, DEEPSEEK_SEPARATOR)
    if name is None:
        return None
    if name.strip() == "function" and not (yield from _starts_json(cursor)):
        line = yield from _match(cursor, _LINE, None)
        if line is None:
            return None
        name = line[1]
    is_empty = (yield from _accepts(cursor, DEEPSEEK_CALL_END, consume=False)) or (
        yield from _accepts(cursor, _CODE_FENCE, consume=False)
    )
    value = "" if is_empty else (yield from _take_json(cursor))
    return None if value is None else named_call(name, value)


def _take_json(cursor: Cursor) -> Waiting[str | None]:
    """The JSON value at the cursor; None, and nothing is read, if it is not JSON."""
    scanner = JsonScanner(cursor.position)
    while (is_complete := scanner.scan(cursor.text, cursor.is_last)) is None:
        yield None
    if not is_complete:
        return None
    cursor.position = scanner.position
    return cursor.text[scanner.start : scanner.position]


def _starts_json(cursor: Cursor) -> Waiting[bool]:
    """Whether an array or an object follows, after white space."""
    while not (rest := cursor.text[cursor.position : cursor.position + 64].lstrip()):
        if cursor.is_last or len(cursor.text) - cursor.position >= 64:
            return False
        yield None
    return rest[0] in "{["


def _accepts(cursor: Cursor, mark: str, consume: bool = True) -> Waiting[bool]:
    """Read white space and `mark` if they follow."""
    while True:
        rest = cursor.text[cursor.position : cursor.position + 64 + len(mark)]
        start = len(rest) - len(rest.lstrip())
        if rest.startswith(mark, start):
            cursor.position += (start + len(mark)) * consume
            return True
        if cursor.is_last or start > 64 or not mark.startswith(rest[start:]):
            return False
        yield None


def _take_until(cursor: Cursor, mark: str) -> Waiting[str | None]:
    """The text before `mark`, which is read too; None if it is too long or there is no mark."""
    while (end := cursor.text.find(mark, cursor.position)) < 0:
        if cursor.is_last or len(cursor.text) - cursor.position > _MAX_HEADER_LENGTH:
            return None
        yield None
    text, cursor.position = cursor.text[cursor.position : end], end + len(mark)
    return text


def _match(
    cursor: Cursor, pattern: re.Pattern[str], partial: re.Pattern[str] | None
) -> Waiting[re.Match[str] | None]:
    """What `pattern` matches at the cursor, which is read; `partial` matches what may become it."""
    while (match := pattern.match(cursor.text, cursor.position)) is None:
        is_long = len(cursor.text) - cursor.position > _MAX_HEADER_LENGTH
        is_partial = partial is None or partial.match(cursor.text, cursor.position)
        if cursor.is_last or is_long or not is_partial:
            return None
        yield None
    cursor.position = match.end()
    return match
