"""gpt-oss's way to answer: several messages, each behind a header that names its channel.

`analysis` is reasoning; `final` is content, and so is `commentary`. What is addressed to a tool
holds the arguments of one call and is told when it is whole, as text where it is no call of a known
tool. The format is OpenAI's: https://developers.openai.com/cookbook/articles/openai-harmony. Pure
but for ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.openai.parsing.output import Delta
from router.openai.parsing.tool_call_formats import MESSAGE
from router.openai.parsing.tool_calls import Known

_CHANNEL = "<|channel|>"
FINAL = f"{_CHANNEL}final{MESSAGE}"
"""The header of an answer."""
_START = "<|start|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>", _START)


class Harmony:
    """Takes the shown text of a choice, piece by piece, with all of the format's marks."""

    def __init__(self, known: Known, prompt: str) -> None:
        """`prompt`: what stands before; the last message may be begun there."""
        self._known = known
        self._header = begun(prompt)
        """Of the message that is being read; None between messages."""
        self._held = ""
        self._fresh = self._header is None
        """Whether nothing of the message was told."""
        self._said: set[bool] = set()
        """Kinds of text that were told, True for reasoning; one more message begins a new line."""
        self.called = False

    def push(self, text: str, last: bool) -> Delta:
        """What `text` adds; nothing is withheld behind the `last`."""
        self._held += text
        parts = []
        while (part := self._next(last)) is not None:
            parts.append(part)
        return Delta(
            content="".join(part.content for part in parts),
            reasoning="".join(part.reasoning for part in parts),
            calls=tuple(call for part in parts for call in part.calls),
        )

    def _next(self, last: bool) -> Delta | None:
        """What is certain of the held text, up to the end of a header or a message."""
        return self._begin(last) if self._header is None else self._go_on(self._header, last)

    def _begin(self, last: bool) -> Delta | None:
        header, mark, rest = self._held.partition(MESSAGE)
        if mark:
            self._header, self._held, self._fresh = header, rest, True
            return Delta()
        if not last or not self._held:
            return None
        text, self._held = self._held, ""
        return None if _CHANNEL in text else Delta(content=text)  # it is no header

    def _go_on(self, header: str, last: bool) -> Delta | None:
        place, mark = _end(self._held)
        if "to=" in header and not (mark or last):
            return None
        cut = place if mark or last else place - _doubtful(self._held)
        text, self._held = self._held[:cut], self._held[cut + len(mark) :]
        if mark:
            self._header = None
        return self._told(header, text) if text or mark else None

    def _told(self, header: str, text: str) -> Delta:
        calls = self._known.read(f"{header}{MESSAGE}{text}") if "to=" in header else None
        if calls is not None:
            self.called = self.called or bool(calls)
            return Delta(calls=calls)
        thought = f"{_CHANNEL}analysis" in header
        if text:
            text = f"\n{text}" if self._fresh and thought in self._said else text
            self._fresh = False
            self._said.add(thought)
        return Delta(reasoning=text) if thought else Delta(content=text)


def opened(prompt: str) -> str:
    """`prompt` with the header of the answer, for one that a grammar binds from its first token."""
    return prompt + FINAL if begun(prompt) is None else prompt


def turn(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as gpt-oss's template reads it: content is text, and reasoning is `thinking`.

    Beside a call it takes one of the two.
    """
    content = message.get("content") or ""
    thought = message.get("reasoning_content")
    beside = bool(content and message.get("tool_calls"))
    more = {"thinking": thought} if thought and not beside else {}
    return {**message, "content": content, **more}


def described(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as that template reads it: it always has a description."""
    return {**tool, "function": {"description": "", **tool["function"]}}


def begun(prompt: str) -> str | None:
    """The header of the message that `prompt` leaves open; None where it opens none."""
    header, mark, _ = prompt.rpartition(_START)[2].partition(MESSAGE)
    return header if mark else None


def _end(text: str) -> tuple[int, str]:
    """Where the message ends, and the mark there; the end of `text` where there is none."""
    found = [(place, mark) for mark in _ENDS if (place := text.find(mark)) >= 0]
    return min(found, default=(len(text), ""))


def _doubtful(text: str) -> int:
    """How many characters at the end of `text` may be the start of a mark."""
    tail = text[text.rfind("<") :] if "<" in text else ""
    return len(tail) if any(mark.startswith(tail) for mark in _ENDS) else 0
