"""Calls whose arguments are elements, as Qwen3-Coder and GLM write them.

Qwen3-Coder often leaves out the opening mark of a call, which then begins with its function.

A value is plain text and may hold any of the format's marks. It ends where what follows its end
mark is the next element of the call, and a call ends where its end mark is followed by the end of
the output or by the next call. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from router.openai.parsing.argument_types import ONLY_STRING, accepted_types, argument_json
from router.openai.parsing.call_readers import CallReader, Cursor
from router.openai.parsing.call_values import ParsedCall, Tools
from router.openai.parsing.json_scanner import JsonScanner, json_string

_MAX_MARK_LENGTH = len("</tool_call>")
_TAIL_LENGTH = 400
"""Characters before an end mark that decide whether a call may end there."""
_MAX_HEAD_LENGTH = 300
"""Characters after an opening mark that decide whether a call begins there."""


@dataclass(frozen=True, slots=True)
class ElementFormat:
    """The elements of a call; each pattern's group is a name."""

    head: re.Pattern[str]
    """From the opening mark to the first key."""
    next_head: re.Pattern[str]
    """The head of a call that follows another, as far as needed to recognize it."""
    key: re.Pattern[str]
    """From the end of a value to the next value."""
    value_end: str
    tail: re.Pattern[str]
    """From the end of the last value to the end mark of the call."""
    complete: re.Pattern[str]
    """The end of the text of a call that may be complete."""
    newline_around_value: bool
    marks: re.Pattern[str] = re.compile("</?tool_call>")
    """The marks that begin and end a call."""
    closing: re.Pattern[str] = re.compile("</tool_call>")
    """The mark that ends a call, with all that belongs to it."""


QWEN_CODER = ElementFormat(
    head=re.compile(r"\s*<function=([^>\n]+)>"),
    next_head=re.compile(r"\s*(?:<function=)?([^>\n]+)>"),
    key=re.compile(r"\s*<parameter=([^>\n]+)>"),
    value_end="</parameter>",
    tail=re.compile(r"\s*</function>\s*"),
    complete=re.compile(r"(?:</parameter>|<function=[^>\n]+>)\s*</function>\s*\Z"),
    newline_around_value=True,
    marks=re.compile("</?tool_call>|<function="),
)
BARE_QWEN_CODER = replace(
    QWEN_CODER,
    head=re.compile(r"([^>\n]+)>"),
    tail=re.compile(r"\s*"),
    complete=re.compile(r"(?:</parameter>|\A[^>\n]+>)\s*\Z"),
    marks=re.compile("</?function[=>]|<tool_call>"),
    closing=re.compile(r"</function>(?:\s*</tool_call>)?"),
)
"""After `<function=`, in a call without an opening mark."""
GLM = ElementFormat(
    head=re.compile(r"\s*([\w.-]+)"),
    next_head=re.compile(r"\s*([\w.-]+)\s*(?:<arg_key>|</tool_call>)"),
    key=re.compile(r"\s*<arg_key>([^<]*)</arg_key>\s*<arg_value>"),
    value_end="</arg_value>",
    tail=re.compile(r"\s*"),
    complete=re.compile(r"(?:</arg_value>|\A\s*[\w.-]+)\s*\Z"),
    newline_around_value=False,
)


def read_qwen_coder(cursor: Cursor, tools: Tools) -> CallReader:
    """A call of Qwen3-Coder."""
    return _read_call(cursor, tools, QWEN_CODER)


def read_bare_qwen_coder(cursor: Cursor, tools: Tools) -> CallReader:
    """A call of Qwen3-Coder without an opening mark, after `<function=`."""
    return _read_call(cursor, tools, BARE_QWEN_CODER)


def read_glm(cursor: Cursor, tools: Tools) -> CallReader:
    """A call of GLM."""
    return _read_call(cursor, tools, GLM)


def _read_call(cursor: Cursor, tools: Tools, format: ElementFormat) -> CallReader:
    start = position = cursor.position
    end: int | None = None
    """Where the last mark begins at which the call may end."""
    while True:
        mark = format.marks.search(cursor.text, position)
        if mark is None:
            if cursor.is_last:
                break
            position = max(position, len(cursor.text) - _MAX_MARK_LENGTH + 1)
            yield None
        elif format.closing.match(mark[0]):
            is_end = _may_be_complete(cursor.text, start, mark.start(), format)
            end = mark.start() if is_end else end
            position = mark.end()
        elif end is None:
            position = mark.end()
        else:
            begins = _begins_call(cursor.text, mark.end(), tools, format)
            if begins is None and not cursor.is_last:
                yield None
            elif begins:
                break
            else:
                position = mark.end()
    if end is None:
        end = len(cursor.text)
    call = None
    if _may_be_complete(cursor.text, start, end, format):
        call = _parse_call(cursor.text[start:end], tools, format)
    if call is None:
        return False
    closing = format.closing.match(cursor.text, end)
    cursor.position = closing.end() if closing else end
    yield (call,)
    return True


def _may_be_complete(text: str, start: int, end: int, format: ElementFormat) -> bool:
    return format.complete.search(text[max(start, end - _TAIL_LENGTH) : end]) is not None


def _begins_call(text: str, position: int, tools: Tools, format: ElementFormat) -> bool | None:
    """Whether a call of a tool begins at `position`; None if that needs more text."""
    head = format.next_head.match(text, position)
    if head:
        return head[1].strip() in tools
    return False if len(text) - position > _MAX_HEAD_LENGTH else None


def _parse_call(body: str, tools: Tools, format: ElementFormat) -> ParsedCall | None:
    """The call in the text between its marks; None if it is malformed."""
    head = format.head.match(body)
    if head is None:
        return None
    name, position = head[1].strip(), head.end()
    schema = tools.get(name, {})
    properties = schema.get("properties")
    properties = properties if isinstance(properties, dict) else {}
    arguments: dict[str, str] = {}
    while not format.tail.fullmatch(body, position):
        key = format.key.match(body, position)
        if key is None:
            return None
        field = key[1].strip()
        parameter = properties.get(field)
        seen = (*arguments, field)
        is_text = accepted_types(parameter, schema) == ONLY_STRING
        end = _find_value_end(body, key.end(), seen, properties, format, is_text)
        if end is None:
            return None
        value = _value_text(body[key.end() : end], format)
        arguments[field] = argument_json(value, parameter, schema)
        position = end + len(format.value_end)
    members = (f"{json_string(field)}:{value}" for field, value in arguments.items())
    return ParsedCall(name, f"{{{','.join(members)}}}")


def _find_value_end(
    body: str,
    start: int,
    seen: Collection[str],
    properties: dict[str, Any],
    format: ElementFormat,
    is_text: bool,
) -> int | None:
    """Offset of the end mark of the value at `start`; None if there is none.

    An end mark in a JSON value, or before anything but the tail or a new key, is text. If the tool
    declares its parameters, the key of another one counts only on a line of its own.
    """
    scanner = JsonScanner(start)
    search = scanner.position if not is_text and scanner.scan(body, last=True) else start
    while (end := body.find(format.value_end, search)) >= 0:
        search = end + len(format.value_end)
        if format.tail.fullmatch(body, search):
            return end
        key = format.key.match(body, search)
        if key and key[1].strip() not in seen:
            is_declared = not properties or key[1].strip() in properties
            if is_declared or body.startswith("\n", search):
                return end
    return None


def _value_text(value: str, format: ElementFormat) -> str:
    if format.newline_around_value:
        return value.removeprefix("\n").removesuffix("\n")
    return value
