"""Log-probabilities in OpenAI's two forms: the chat's list of objects, the completion's columns.

The chosen token's value and its entry among the most likely tokens are the same float, so that a
client may compare them for equality to see whether a choice was greedy. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from router.errors import StreamSerializationError
from router.requests.record import GeneratedToken, LiveRequest, PromptToken


def chat_logprobs(record: LiveRequest, token: GeneratedToken) -> dict[str, Any]:
    """The `logprobs` of one token of a chat."""
    top = [_token_entry(other.text, other.logprob) for other in token.top]
    top = top[: record.request.top_n_tokens]
    return {
        "content": [
            {**_token_entry(record.token_text(token.id), token.logprob), "top_logprobs": top}
        ]
    }


def merge_chat_logprobs(parts: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The `logprobs` of several tokens, from those of each; None if there are none."""
    entries = [entry for part in parts if part is not None for entry in part["content"]]
    return {"content": entries} if entries else None


@dataclass(slots=True)
class LogprobColumns:
    """The `logprobs` of a completion; `offset` is where the next token begins in the text."""

    offset: int = 0
    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def add(self, token: GeneratedToken | PromptToken, token_text: str, length: int) -> None:
        """Add a token whose part of the text has `length` characters."""
        self.tokens.append(token_text)
        self.token_logprobs.append(_require_finite(token.logprob))
        self.top_logprobs.append(_logprobs_by_text(token, token_text))
        self.text_offset.append(self.offset)
        self.offset += length

    def drain(self) -> dict[str, Any]:
        """Return the columns added since the last call."""
        names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        columns = {name: getattr(self, name) for name in names}
        for name in names:
            setattr(self, name, [])
        return columns


def _logprobs_by_text(
    token: GeneratedToken | PromptToken, token_text: str
) -> dict[str, float] | None:
    """The most likely tokens and the chosen one, by text; the more likely one of equal texts."""
    if token.logprob is None:
        return None
    by_text: dict[str, float] = {}
    for text, value in [
        (token_text, token.logprob),
        *((top.text, top.logprob) for top in token.top),
    ]:
        by_text[text] = max(value, by_text.get(text, -math.inf))
    return by_text


def _token_entry(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": _require_finite(logprob), "bytes": list(text.encode())}


def _require_finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise StreamSerializationError
    return value
