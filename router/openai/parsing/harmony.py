"""gpt-oss's way to answer: several messages, each behind a header that names its channel.

`analysis` is reasoning; `final` is content, and so is `commentary`. What is addressed to a tool
holds the arguments of one call and is told when it is whole, as text where it is no call of a known
tool. The format is OpenAI's: https://developers.openai.com/cookbook/articles/openai-harmony. Pure
but for ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.openai.parsing.output import OutputDelta
from router.openai.parsing.tool_call_formats import MESSAGE_MARK
from router.openai.parsing.tool_calls import KnownTools

_CHANNEL = "<|channel|>"
FINAL_HEADER = f"{_CHANNEL}final{MESSAGE_MARK}"
"""The header of an answer."""
_START = "<|start|>"
_END_MARKS = ("<|end|>", "<|call|>", "<|return|>", _START)


class HarmonyParser:
    """Takes the shown text of a choice, piece by piece, with all of the format's marks."""

    def __init__(self, known_tools: KnownTools, prompt: str) -> None:
        """`prompt`: what stands before; the last message may be begun there."""
        self._known_tools = known_tools
        self._header = open_header(prompt)
        """Of the message that is being read; None between messages."""
        self._held = ""
        self._message_is_empty = self._header is None
        """Whether nothing of the message was told."""
        self._kinds_sent: set[bool] = set()
        """Kinds of text that were told, True for reasoning; one more message begins a new line."""
        self.has_calls = False

    def push(self, text: str, last: bool) -> OutputDelta:
        """What `text` adds; nothing is withheld behind the `last`."""
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
        """What is certain of the held text, up to the end of a header or a message."""
        return (
            self._read_header(last)
            if self._header is None
            else self._read_message(self._header, last)
        )

    def _read_header(self, last: bool) -> OutputDelta | None:
        header, mark, rest = self._held.partition(MESSAGE_MARK)
        if mark:
            self._header, self._held, self._message_is_empty = header, rest, True
            return OutputDelta()
        if not last or not self._held:
            return None
        text, self._held = self._held, ""
        return None if _CHANNEL in text else OutputDelta(content=text)  # it is no header

    def _read_message(self, header: str, last: bool) -> OutputDelta | None:
        place, mark = _find_end(self._held)
        if "to=" in header and not (mark or last):
            return None
        cut = place if mark or last else place - _partial_mark_length(self._held)
        text, self._held = self._held[:cut], self._held[cut + len(mark) :]
        if mark:
            self._header = None
        return self._message_delta(header, text) if text or mark else None

    def _message_delta(self, header: str, text: str) -> OutputDelta:
        calls = (
            self._known_tools.parse_calls(f"{header}{MESSAGE_MARK}{text}")
            if "to=" in header
            else None
        )
        if calls is not None:
            self.has_calls = self.has_calls or bool(calls)
            return OutputDelta(calls=calls)
        thought = f"{_CHANNEL}analysis" in header
        if text:
            text = f"\n{text}" if self._message_is_empty and thought in self._kinds_sent else text
            self._message_is_empty = False
            self._kinds_sent.add(thought)
        return OutputDelta(reasoning=text) if thought else OutputDelta(content=text)


def with_final_header(prompt: str) -> str:
    """`prompt` with the header of the answer, for one that a grammar binds from its first token."""
    return prompt + FINAL_HEADER if open_header(prompt) is None else prompt


def template_message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as gpt-oss's template reads it: content is text, and reasoning is `thinking`.

    Beside a call it takes one of the two.
    """
    content = message.get("content") or ""
    thought = message.get("reasoning_content")
    beside = bool(content and message.get("tool_calls"))
    more = {"thinking": thought} if thought and not beside else {}
    return {**message, "content": content, **more}


def with_description(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as that template reads it: it always has a description."""
    return {**tool, "function": {"description": "", **tool["function"]}}


def open_header(prompt: str) -> str | None:
    """The header of the message that `prompt` leaves open; None where it opens none."""
    header, mark, _ = prompt.rpartition(_START)[2].partition(MESSAGE_MARK)
    return header if mark else None


def _find_end(text: str) -> tuple[int, str]:
    """Where the message ends, and the mark there; the end of `text` where there is none."""
    found = [(place, mark) for mark in _END_MARKS if (place := text.find(mark)) >= 0]
    return min(found, default=(len(text), ""))


def _partial_mark_length(text: str) -> int:
    """How many characters at the end of `text` may be the start of a mark."""
    tail = text[text.rfind("<") :] if "<" in text else ""
    return len(tail) if any(mark.startswith(tail) for mark in _END_MARKS) else 0
