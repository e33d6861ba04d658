"""Parses the output of gpt-oss: several messages, each after a header that names its channel.

`analysis` is reasoning; `final` and `commentary` are content. A message addressed to a tool holds
the arguments of one call and is returned once it is complete, as text if the tool is unknown.
OpenAI's harmony format: https://developers.openai.com/cookbook/articles/openai-harmony. Pure but
for ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from router.openai.parsing.call_values import named_call
from router.openai.parsing.json_scanner import JsonScanner
from router.openai.parsing.output import OutputDelta
from router.openai.parsing.tool_call_formats import MESSAGE_MARK
from router.openai.parsing.tool_calls import KnownTools

_CHANNEL = "<|channel|>"
FINAL_HEADER = f"{_CHANNEL}final{MESSAGE_MARK}"
"""The header of a message to the user."""
_START = "<|start|>"
_RECIPIENT = re.compile(r"\bto=functions\.([\w.-]+)")
_END_MARKS = ("<|end|>", "<|call|>", "<|return|>", _START)


class HarmonyParser:
    """Parses the visible text of one choice, piece by piece, with all of the format's marks."""

    def __init__(self, known_tools: KnownTools, prompt: str) -> None:
        """`prompt`: the text before the output; it may already begin a message."""
        self._known_tools = known_tools
        self._header = open_header(prompt)
        """Header of the current message; None between messages."""
        self._held = ""
        self._scanner = JsonScanner()
        """Scans the arguments of a call, in which the marks of the format are text."""
        self._message_is_empty = self._header is None
        """Whether nothing of the current message was returned yet."""
        self._kinds_sent: set[bool] = set()
        """Kinds of text returned so far, True for reasoning; the next message starts a new line."""
        self.has_calls = False

    @property
    def held_length(self) -> int:
        """Number of characters at the end of the text so far that are held back."""
        return len(self._held)

    def push(self, text: str, last: bool) -> OutputDelta:
        """What `text` adds; nothing is held back once it is the `last`."""
        self._held += text
        parts = []
        while (part := self._next_delta(last)) is not None:
            parts.append(part)
        return OutputDelta(
            content="".join(part.content for part in parts),
            reasoning="".join(part.reasoning for part in parts),
            calls=tuple(call for part in parts for call in part.calls),
        )

    def _next_delta(self, last: bool) -> OutputDelta | None:
        """The next certain part of the held text, up to the end of a header or a message."""
        return (
            self._read_header(last)
            if self._header is None
            else self._read_message(self._header, last)
        )

    def _read_header(self, last: bool) -> OutputDelta | None:
        header, mark, rest = self._held.partition(MESSAGE_MARK)
        if mark:
            self._header, self._held, self._message_is_empty = header, rest, True
            self._scanner = JsonScanner()
            return OutputDelta()
        if not last or not self._held:
            return None
        text, self._held = self._held, ""
        return None if _CHANNEL in text else OutputDelta(content=text)  # not a header

    def _read_message(self, header: str, last: bool) -> OutputDelta | None:
        is_call = "to=" in header
        is_json = is_call and self._scanner.scan(self._held, last=False)
        if is_json is None and not last:
            return None
        end, mark = _find_end(self._held, self._scanner.position if is_json else 0)
        if is_call and not (mark or last):
            return None
        cut = end if mark or last else end - _partial_mark_length(self._held)
        text, self._held = self._held[:cut], self._held[cut + len(mark) :]
        if mark:
            self._header = None
        return self._message_delta(header, text) if text or mark else None

    def _message_delta(self, header: str, text: str) -> OutputDelta:
        recipient = _RECIPIENT.search(header)
        parsed = named_call(recipient[1], text) if recipient else None
        calls = self._known_tools.number(parsed) if parsed else None
        if calls is not None:
            self.has_calls = self.has_calls or bool(calls)
            return OutputDelta(calls=calls)
        is_reasoning = f"{_CHANNEL}analysis" in header
        if text:
            starts_line = self._message_is_empty and is_reasoning in self._kinds_sent
            text = f"\n{text}" if starts_line else text
            self._message_is_empty = False
            self._kinds_sent.add(is_reasoning)
        return OutputDelta(reasoning=text) if is_reasoning else OutputDelta(content=text)


def with_final_header(prompt: str) -> str:
    """`prompt` plus the header of a final message, for output constrained by a grammar."""
    return prompt + FINAL_HEADER if open_header(prompt) is None else prompt


def template_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as gpt-oss's template expects it: content is text, and reasoning is `thinking`.

    A message with tool calls has one of the two, preferably content.
    """
    content = message.get("content") or ""
    reasoning = message.get("reasoning_content")
    has_room = not (content and message.get("tool_calls"))
    thinking = {"thinking": reasoning} if reasoning and has_room else {}
    return {**message, "content": content, **thinking}


def with_description(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as gpt-oss's template expects it: it always has a description."""
    return {**tool, "function": {"description": "", **tool["function"]}}


def open_header(prompt: str) -> str | None:
    """The header of the message that `prompt` leaves open; None if there is none."""
    header, mark, _ = prompt.rpartition(_START)[2].partition(MESSAGE_MARK)
    return header if mark else None


def _find_end(text: str, start: int) -> tuple[int, str]:
    """Offset of the first end mark from `start` on, and the mark.

    The length of `text` and "" if there is none.
    """
    ends = [(index, mark) for mark in _END_MARKS if (index := text.find(mark, start)) >= 0]
    return min(ends, default=(len(text), ""))


def _partial_mark_length(text: str) -> int:
    """Number of characters at the end of `text` that may be the start of a mark."""
    tail = text[text.rfind("<") :] if "<" in text else ""
    return len(tail) if any(mark.startswith(tail) for mark in _END_MARKS) else 0
