"""Finds tool calls in a text that comes piece by piece.

What may still be the start of a mark is withheld, and so is white space that may stand before one.
What cannot be read as a call of a known tool is content, with its marks. Pure but for the ids.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import orjson

from router.openai.parsing.tool_call_formats import Call, Format


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A part of a call; the first of a call has its id and name."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


Found = tuple[str, tuple[CallDelta, ...]]
"""Content, and parts of calls."""


class Caller(Protocol):
    """Finds the calls of one choice."""

    def push(self, text: str, last: bool) -> Found:
        """What `text` adds; nothing is withheld behind the `last`."""


def waiting(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the start of `mark`, and blanks before it."""
    sizes = range(min(len(text), len(mark) - 1), 0, -1)
    size = next((size for size in sizes if mark.startswith(text[-size:])), 0)
    return len(text) - len(text[: len(text) - size].rstrip())


class NoCalls:
    """All text is content."""

    def push(self, text: str, last: bool) -> Found:
        """The text."""
        return text, ()


class Known:
    """Reads calls of known tools, and counts them."""

    def __init__(self, format: Format, tools: Collection[str], most: int | None) -> None:
        self._format, self._tools, self._most = format, tools, most
        self.count = 0

    def read(self, text: str) -> tuple[CallDelta, ...] | None:
        """The calls in `text`, less those that are too many; None if it is no call of a tool."""
        calls = self._format.read(text)
        if not calls or not all(call.name in self._tools for call in calls):
            return None
        first, self.count = self.count, self.count + len(calls)
        most = len(calls) if self._most is None else max(0, self._most - first)
        return tuple(_whole_call(first + place, call) for place, call in enumerate(calls[:most]))


class Marked:
    """Calls between marks."""

    def __init__(self, format: Format, tools: Collection[str], most: int | None = None) -> None:
        """`most`: calls beyond so many are dropped."""
        self._opening, self._closing = format.opening, format.closing
        self._known = Known(format, tools, most)
        self._held = ""
        self._inside = False
        self._blank = ""
        """White space before the mark, which belongs to it if a call follows."""

    def push(self, text: str, last: bool) -> Found:
        """Content, and whole calls."""
        self._held += text
        content = ""
        calls: tuple[CallDelta, ...] = ()
        while (found := self._next(last)) is not None:
            content, calls = content + found[0], calls + found[1]
        if self._inside:
            return content, calls
        cut = len(self._held) - (0 if last else waiting(self._held, self._opening))
        told, self._held = self._held[:cut], self._held[cut:]
        blank = last and self._known.count and not told.strip()
        return content + ("" if blank else told), calls

    def _next(self, last: bool) -> Found | None:
        """Content up to an opening mark, or what stands behind one; None if that is not whole."""
        if not self._inside:
            before, mark, rest = self._held.partition(self._opening)
            if not mark:
                return None
            told = before.rstrip()
            self._held, self._inside, self._blank = rest, True, before[len(told) :]
            return told, ()
        body, mark, rest = self._held.partition(self._closing or "\0")
        if not mark and not last:
            return None
        self._inside = False
        self._held = rest
        calls = self._known.read(body)
        raw = f"{self._blank}{self._opening}{body}{mark}"
        return (raw, ()) if calls is None else ("", calls)


class Bare:
    """Calls in a format without an opening: the whole output is JSON, or none of it is."""

    def __init__(self, format: Format, tools: Collection[str], most: int | None = None) -> None:
        self._starts = ("{", "[", *format.marks)
        self._known = Known(format, tools, most)
        self._held = ""
        self._plain = False

    def push(self, text: str, last: bool) -> Found:
        """Nothing until the end, unless the first characters say that it is no call."""
        self._held += text
        start = self._held.lstrip()
        possible = any(mark.startswith(start) or start.startswith(mark) for mark in self._starts)
        self._plain = self._plain or not possible
        if not self._plain and not last:
            return "", ()
        whole, self._held = self._held, ""
        calls = None if self._plain else self._known.read(whole)
        return (whole, ()) if calls is None else ("", calls)


class Forced:
    """The one call that a grammar demanded; its arguments are told as they come."""

    def __init__(self, heads: Mapping[str, str]) -> None:
        """`heads`: what the output begins with, and the tool that this means."""
        self._heads = heads
        self._held = ""
        self._told: str | None = None
        """The arguments so far, once the tool is known."""

    def push(self, text: str, last: bool) -> Found:
        """Parts of the call; an output cut short before the tool is known is content."""
        self._held += text
        name = self._begin() if self._told is None else None
        if self._told is None:
            cut = self._held if last else ""
            return cut, ()
        arguments = self._more(self._told, last)
        self._told += arguments
        if name is not None:
            return "", (CallDelta(0, arguments, call_id(), name),)
        return "", (CallDelta(0, arguments),) if arguments else ()

    def _begin(self) -> str | None:
        head = next((head for head in self._heads if self._held.startswith(head)), None)
        if head is None:
            return None
        self._held, self._told = self._held[len(head) :], ""
        return self._heads[head]

    def _more(self, told: str, last: bool) -> str:
        """Arguments that are certain: not the brace that closes the object around them."""
        cut = max(len(self._held.rstrip()) - 1, 0)
        if last and not _is_object(told + self._held[:cut]):
            cut = len(self._held)
        more, self._held = self._held[:cut], self._held[cut:]
        return more


def caller(format: Format, tools: Collection[str], most: int | None) -> Callable[[], Caller]:
    """Makes what finds the calls of `format` in one choice."""
    kind: Callable[..., Caller] = Marked if format.opening else Bare
    return lambda: kind(format, tools, most)


def call_id() -> str:
    """A fresh id of a call."""
    return f"call_{secrets.token_hex(12)}"


def _whole_call(index: int, call: Call) -> CallDelta:
    return CallDelta(index, call.arguments, call_id(), call.name)


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False
