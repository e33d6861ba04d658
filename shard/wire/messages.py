"""What the messages between router and shards are made of: rows, pages, results.

Frozen values and their meaning; how they travel is `codec`'s, and which messages there are
`protocol`'s, from which both sides import them. A field of either file may have only types that the
codec knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

Ids = Annotated[tuple[int, ...], "i"]
"""Token or page ids, int32 on the wire."""
Floats = Annotated[tuple[float, ...], "f"]
"""Log-probabilities, float32 on the wire."""


class End(StrEnum):
    """Why a shard ended a request; the values are TGI's finish reasons where it has one."""

    EOS = "eos_token"
    LENGTH = "length"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class LogitBias:
    """What is added to the score of `token`, an id inside the vocabulary."""

    token: int
    value: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the target's next token is chosen. Neutral values switch a processor off.

    `temperature` 0 is greedy, without warpers; `top_k` 0, `top_p` 1, `typical_p` 1 and `min_p` 0
    keep every token. `seed` and the absolute position fix the noise, so the text depends on
    nothing else.
    """

    seed: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    typical_p: float = 1.0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    """Times the token's count in the output."""
    presence_penalty: float = 0.0
    """Once for a token in the output."""
    bias: tuple[LogitBias, ...] = ()
    """No token twice."""
    watermark: bool = False
    min_new_tokens: int = 0
    """EOS is barred until so many tokens are emitted."""
    watermark_gamma: float = 0.5
    """Share of the vocabulary that the watermark favours; its default where there is none."""
    watermark_delta: float = 2.0
    """What a favoured token gains; its default where there is no watermark."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a row's Items tell beside its tokens."""

    top_n: int = 0
    """How many of the likeliest tokens at every position, the prompt's included if it is told."""
    raw_logprobs: bool = False
    """Log-probabilities of the model itself, not of what processors and warpers left."""
    prompt_logprobs: bool = False
    """Log-probabilities of the prompt; the prefill must then start at its first token."""


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row the shards do not hold yet, or no longer hold.

    `tokens` is the prompt followed by what was already emitted; the first `prompt` of them are
    the prompt. The row ends once `prompt + max_new` tokens exist. The pages that come with the same
    Step hold the keys and values of the first `cached` tokens for the target, and of the first
    `draft_cached` for the draft: shared with other rows, or brought back from the host.
    """

    id: int
    tokens: Ids
    prompt: int
    max_new: int
    ignore_eos: bool
    sampling: Sampling
    report: ReportOptions = ReportOptions()
    grammar: str | None = None
    """What the whole output must match, in llguidance's own form; the router has compiled it."""
    cached: int = 0
    draft_cached: int = 0


@dataclass(frozen=True, slots=True)
class AppendPages:
    """Page ids appended to a row's block table."""

    id: int
    pages: Ids


@dataclass(frozen=True, slots=True)
class PageCopy:
    """Whole pages, target and draft, copied from each of `sources` to the same place in `targets`.

    All are read before any is written.
    """

    sources: Ids = ()
    targets: Ids = ()


NO_COPY = PageCopy()
"""No page moves."""


@dataclass(frozen=True, slots=True)
class RowWork:
    """What one row does in a Step.

    `prefill` > 0: feed that many known tokens; the last known one also samples. `prefill` 0:
    draft `draft` tokens after the row's last token and verify them.
    """

    id: int
    prefill: int
    draft: int


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """Seconds of a Step in which `rows` rows decode with `draft` drafts each."""

    rows: int
    draft: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The likeliest tokens at one position, the likeliest first, ties with the last included."""

    ids: Ids
    logprobs: Floats


@dataclass(frozen=True, slots=True)
class RowResult:
    """What a Step did for one row; a row that had ended before has no item."""

    id: int
    tokens: Ids
    logprobs: Floats
    """Of the chosen tokens, natural log, one per token; after every processor and warper unless
    the row's report asks for the model's own."""
    drafted: int
    accepted: int
    end: End | None
    top: tuple[TopTokens, ...] = ()
    """One per token where the report asks for them, else none."""
    prompt_start: int = 0
    prompt_logprobs: Floats = ()
    """The model's own, of the prompt's tokens from `prompt_start` on; the first has none."""
    draft_cached: int = 0
    """Leading tokens of the row whose keys and values the draft holds; the target's own count
    where no draft keeps any."""
    prompt_top: tuple[TopTokens, ...] = ()
    """The model's likeliest tokens at the same places, where the report asks for some."""
