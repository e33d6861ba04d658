"""The values in the messages between router and shards: rows, pages, results.

How they are encoded is `codec`'s, and which messages exist is `protocol`'s, from which both sides
import everything. A field here may only have types that the codec supports.
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
    COMPLETE = "complete"
    """The grammar allows no further token, and no end-of-sequence token may end the row."""


@dataclass(frozen=True, slots=True)
class LogitBias:
    """A `value` that is added to the logit of `token`, an id inside the vocabulary."""

    token: int
    value: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the target's next token is chosen. Each default value disables its processor.

    `temperature` 0 is greedy and skips the warpers; `top_k` 0, `top_p` 1, `typical_p` 1 and `min_p`
    0 keep every token. The noise is a function of `seed`, position and token, so that the text
    depends on nothing else.
    """

    seed: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    typical_p: float = 1.0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit once per occurrence in the output."""
    presence_penalty: float = 0.0
    """Subtracted from a token's logit once if it occurs in the output."""
    bias: tuple[LogitBias, ...] = ()
    """At most one entry per token."""
    watermark: bool = False
    min_new_tokens: int = 0
    """EOS is suppressed until this many tokens have been emitted."""
    watermark_gamma: float = 0.5
    """Fraction of the vocabulary on the green list; the default without a watermark."""
    watermark_delta: float = 2.0
    """Logit bias of green-list tokens; the default without a watermark."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What a row's results contain next tos its tokens."""

    top_n: int = 0
    """Number of most likely tokens per position, of the prompt too with `prompt_logprobs`."""
    raw_logprobs: bool = False
    """Report log-probabilities before processors and warpers instead of after them."""
    prompt_logprobs: bool = False
    """Report the prompt's log-probabilities. The prefill must then start at its first token."""


@dataclass(frozen=True, slots=True)
class NewRow:
    """A row that the shards do not hold: a new one, or one that was evicted.

    `tokens` is the prompt, of length `prompt`, followed by the tokens already emitted. The row ends
    at `prompt + max_new` tokens. Its pages in the same step already hold the keys and values of the
    first `cached` tokens of the target and the first `draft_cached` of the draft, because they are
    shared with other rows or swapped in.
    """

    id: int
    tokens: Ids
    prompt: int
    max_new: int
    ignore_eos: bool
    sampling: Sampling
    report: ReportOptions = ReportOptions()
    grammar: str | None = None
    """Grammar of the whole output in llguidance's format; the router has compiled it."""
    cached: int = 0
    draft_cached: int = 0
    scope: str = ""
    """Rows of equal scope may learn from each other's answers."""
    adapter: int = 0
    """Number of the adapter that the target computes with; 0 for the model alone."""


@dataclass(frozen=True, slots=True)
class AppendPages:
    """Page ids to append to a row's block table."""

    id: int
    pages: Ids


@dataclass(frozen=True, slots=True)
class PageCopy:
    """Copies of whole pages, of target and draft, from `sources[i]` to `targets[i]`.

    All pages are read before any is written.
    """

    sources: Ids = ()
    targets: Ids = ()


NO_COPY = PageCopy()
"""Copies no page."""


GRAMMAR, SUFFIX = "grammar", "suffix"
"""Names of what drafts next to a server's drafter: a grammar's forced tokens, suffix decoding."""


@dataclass(frozen=True, slots=True)
class RowWork:
    """What one row does in a step.

    `prefill` > 0: process that many known tokens, and sample after the last known one. `prefill` 0:
    draft `draft` tokens after the row's last token and verify them.
    """

    id: int
    prefill: int
    draft: int
    forced: int = 0
    """Where the row's grammar leaves one way on, draft up to this many of its tokens instead."""
    suffix: int = 0
    """Otherwise, where suffix decoding finds any, draft up to this many of its tokens instead."""


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """Seconds of a step in which `rows` rows decode with `draft` draft tokens each."""

    rows: int
    draft: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TopTokens:
    """The most likely tokens at one position in descending order, including ties with the last."""

    ids: Ids
    logprobs: Floats


@dataclass(frozen=True, slots=True)
class RowResult:
    """The result of a step for one row; a row that had ended before has none."""

    id: int
    tokens: Ids
    logprobs: Floats
    """Natural log, one per token; after processors and warpers unless `raw_logprobs`."""
    drafted: int
    accepted: int
    end: End | None
    top: tuple[TopTokens, ...] = ()
    """One per token if the row reports them, else empty."""
    prompt_start: int = 0
    prompt_logprobs: Floats = ()
    """Raw log-probabilities of the prompt from `prompt_start` on; its first token has none."""
    draft_cached: int = 0
    """Leading tokens of the row whose keys and values the draft holds; the target's count if no
    drafter keeps any."""
    prompt_top: tuple[TopTokens, ...] = ()
    """The most likely tokens at the same positions if the row reports them, else empty."""
    fault: str = ""
    """Why the row ended with an error, for the client; empty where the model is the reason."""
    mask_seconds: float = 0.0
    """CPU seconds that the row's grammar took in this step, on this rank."""
    drafter: str = ""
    """What drafted: the name of a drafter, `GRAMMAR` for forced tokens, or empty."""
