"""Log-probabilities in OpenAI's two forms: a list of objects, and the completion's columns.

Chats and responses have the first. A token's text and bytes are its own, whatever its neighbors.

The chosen token's value and its entry among the most likely tokens are the same float, so that a
client may compare them for equality to see whether a choice was greedy. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from router.errors import StreamSerializationError
from router.openai.text_offsets import text_offsets
from router.requests.record import LiveRequest
from router.requests.tokens import GeneratedToken, PromptToken


def token_logprobs(record: LiveRequest, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """One object for each of the tokens `numbers` of `record`, counted from 1."""
    return [_with_rivals(record, record.tokens[number - 1]) for number in numbers]


def chat_logprobs(entries: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The `logprobs` of a choice whose content consists of these tokens; None without any."""
    return {"content": entries} if entries else None


def is_hidden(record: LiveRequest, token: GeneratedToken) -> bool:
    """Whether the text of `token` is no part of the output; its `text` is of tokens before it."""
    return token.special and not token.text.endswith(own_text(record, token.id))


def own_text(record: LiveRequest, id: int) -> str:
    """The text of a token, with U+FFFD for parts of characters."""
    return record.token_bytes(id).decode(errors="replace")


@dataclass(slots=True)
class LogprobColumns:
    """The `logprobs` of a completion.

    `offset` is where the next token begins in the text; a token whose text appears later, such as a
    part of a character, begins where that does.
    """

    record: LiveRequest
    offset: int = 0
    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def add_prompt(self) -> None:
        """Add the tokens of the prompt, with which the text begins."""
        record, text = self.record, self.record.request.inputs
        tokens = record.prompt_tokens
        parts = [(record.token_bytes(token.id), token.special) for token in tokens]
        for token, self.offset in zip(tokens, text_offsets(text, parts), strict=True):
            self._append(token)
        self.offset = len(text)

    def add(self, token: GeneratedToken) -> None:
        """Add a generated token."""
        self._append(token)
        self.offset += len(token.text)

    def _append(self, token: GeneratedToken | PromptToken) -> None:
        self.tokens.append(own_text(self.record, token.id))
        self.token_logprobs.append(_require_finite(token.logprob))
        self.top_logprobs.append(_logprobs_by_text(self.record, token))
        self.text_offset.append(self.offset)

    def drain(self) -> dict[str, Any]:
        """Return the columns added since the last call."""
        names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        columns = {name: getattr(self, name) for name in names}
        for name in names:
            setattr(self, name, [])
        return columns


def _logprobs_by_text(
    record: LiveRequest, token: GeneratedToken | PromptToken
) -> dict[str, float] | None:
    """The most likely tokens and the chosen one, by text; the more likely one of equal texts."""
    if token.logprob is None:
        return None
    by_text: dict[str, float] = {}
    top = zip(token.top.ids, token.top.logprobs, strict=True)
    for id, value in [(token.id, token.logprob), *top]:
        text = own_text(record, id)
        by_text[text] = max(value, by_text.get(text, -math.inf))
    return by_text


def _with_rivals(record: LiveRequest, token: GeneratedToken) -> dict[str, Any]:
    rivals = record.top_tokens(token)[: record.request.top_n_tokens]
    top = [_token_entry(record, rival) for rival in rivals]
    entry = {**_token_entry(record, token), "top_logprobs": top}
    if record.request.draft_details:
        entry |= {"drafted": token.drafted, "rejected": token.rejected}
    return entry


def _token_entry(record: LiveRequest, token: GeneratedToken) -> dict[str, Any]:
    own = record.token_bytes(token.id)
    return {
        "token": own.decode(errors="replace"),
        "logprob": _require_finite(token.logprob),
        "bytes": list(own),
    }


def _require_finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise StreamSerializationError
    return value
