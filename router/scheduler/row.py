"""One live request as the policies and the planner see it: facts, and a state that follows.

Theory of operation
===================

A row holds only facts: what outcomes have reported, and what was planned since. Up to two Steps are
in flight, so there is a known state (what outcomes said) and a projected one (what is certain, and
what is possible, once the Steps in flight have completed). A Step in flight that emits at all emits
at least one token; how many more, only the shards know.

The planner alone writes to a row, by these methods:

    start_from_cache    it is admitted with KV that exists already: a shared prefix
    schedule            a Step was planned that prefills known tokens, or decodes a round
    swap_in             a Step was planned that copies its KV back from the host
    complete            the oldest Step in flight that names it is done
    apply_outcome       what that Step did for it
    reset               its KV is lost, with all Steps in flight: evicted, or the group failed
    end                 it ended, or was cancelled

`state` is derived from the facts and never stored, so the two cannot disagree:

    WAITING      holds no KV, and no Step in flight names it
    PREFILLING   a Step in flight names it, and more than its last known token is not cached yet
    DECODING     a Step in flight names it, and all but its last known token is cached: every
                 round feeds that token again, because its logits are needed
    KEPT         holds KV in pages, and no Step in flight names it: it is between two Steps, or it
                 was preempted in place
    SWAPPED      its KV is in host slots
    RETURNING    a Step in flight copies its KV back; no other Step may name it before that is done
    ENDED        its pages are released with the next Batch

    WAITING    --schedule-->  PREFILLING  --outcomes-->  DECODING
    PREFILLING --complete-->  KEPT        <--complete--  DECODING
    KEPT       --schedule-->  PREFILLING or DECODING
    KEPT       --preempt--->  SWAPPED (to the host), or WAITING by `reset` (evicted)
    SWAPPED    --swap_in--->  RETURNING   --complete-->  KEPT
    any        --reset----->  WAITING (the shard group failed)
    any        --end------->  ENDED

Only a KEPT row can be preempted (swapped out, or evicted by `reset`), since tokens of a Step in
flight are still to come. `TRANSITIONS` lists what one event (a call of the scheduler) may change.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from router.scheduler.acceptance import AcceptanceCurve
from router.scheduler.api import Job, Outcome

SUFFIX_SHARE_WEIGHT = 1 / 16
"""Weight of one round in the share of rounds in which suffix decoding drafted."""
PREEMPTION_KINDS = ("keep", "swap", "recompute")
"""Kinds of preemption: its pages stay, go to the host, or are lost."""


class RowState(Enum):
    """What a row is doing; see the theory of operation above."""

    WAITING = "waiting"
    PREFILLING = "prefilling"
    DECODING = "decoding"
    KEPT = "kept"
    SWAPPED = "swapped"
    RETURNING = "returning"
    ENDED = "ended"

    @property
    def holds_pages(self) -> bool:
        """Whether a row in this state holds pages; those of ENDED are about to be released."""
        return self in _HOLDS_PAGES


_HOLDS_PAGES = frozenset(
    (RowState.PREFILLING, RowState.DECODING, RowState.KEPT, RowState.RETURNING)
)
_LOST = {RowState.WAITING, RowState.ENDED}
"""Any row may be cancelled, and lose its KV together with the shard group."""
TRANSITIONS: dict[RowState, frozenset[RowState]] = {
    RowState.WAITING: frozenset({RowState.PREFILLING, RowState.DECODING, *_LOST}),
    RowState.PREFILLING: frozenset({RowState.DECODING, RowState.KEPT, *_LOST}),
    RowState.DECODING: frozenset({RowState.KEPT, *_LOST}),
    RowState.KEPT: frozenset({RowState.PREFILLING, RowState.DECODING, RowState.SWAPPED, *_LOST}),
    RowState.SWAPPED: frozenset({RowState.RETURNING, *_LOST}),
    RowState.RETURNING: frozenset({RowState.KEPT, *_LOST}),
    RowState.ENDED: frozenset(),
}
"""States that one event may lead to, other than the same state."""


@dataclass(slots=True, eq=False)
class Row:
    """A live request. Only the planner writes to it. All counts are in tokens unless stated."""

    job: Job
    acceptance: AcceptanceCurve
    max_draft: int
    """Maximum draft length that job and capacity allow."""
    suffix_acceptance: AcceptanceCurve = field(default_factory=lambda: AcceptanceCurve(()))
    """Of drafts by suffix decoding."""
    max_suffix: int = 0
    """Maximum length of those that job and capacity allow."""
    suffix_length: int = 0
    """Maximum length of those in its last round."""
    suffix_share: float = 0.0
    """Share of its latest rounds in which suffix decoding drafted."""
    emitted: int = 0
    """Known to be emitted."""
    device_seconds: float = 0.0
    """Device time received, in seconds."""
    unprefilled: int = field(init=False)
    """Known tokens that no Step feeds yet: prompt tokens, and emitted ones after a reset."""
    steps_in_flight: int = 0
    """Steps in flight that name this row."""
    min_pending: int = 0
    """Minimum number of tokens that those Steps emit, unless the row ends."""
    max_pending: int = 0
    """Maximum number of tokens that those Steps emit."""
    draft_length: int = field(init=False)
    """Draft length of its last round, or the maximum before the first."""
    draft_lag: int = 0
    """Tokens that a draft model has not seen: emitted since the row last drafted."""
    started: bool = False
    """Whether it was in a Batch since it arrived."""
    ended: bool = False
    """Whether it ended, or was cancelled."""
    hashes: list[int] = field(init=False)
    """Hashes of the full pages of its known tokens; empty if it shares nothing."""
    cached: int = 0
    """Leading tokens whose KV the target is known to hold, in pages or on the host."""
    draft_cached: int = 0
    """Leading tokens whose KV the draft is known to hold."""
    published_pages: int = 0
    """Leading pages that others may share."""
    draft_complete_pages: int = 0
    """Leading published pages that hold the draft's KV too."""
    host_slots: tuple[int, ...] = ()
    """Host slots of its KV, while it is swapped out."""
    swapping_in: bool = False
    """Whether the Step in flight that names it copies its KV back."""
    preemptions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PREEMPTION_KINDS, 0))
    """Number of preemptions by kind."""

    def __post_init__(self) -> None:
        self.unprefilled = self.job.prompt
        self.draft_length = self.max_draft
        self.hashes = list(self.job.hashes)

    @property
    def state(self) -> RowState:
        """What the row is doing, derived from the facts."""
        if self.ended:
            return RowState.ENDED
        if self.swapping_in:
            return RowState.RETURNING
        if self.host_slots:
            return RowState.SWAPPED
        if self.steps_in_flight:
            feeding = self.cached < self.known_tokens - 1
            return RowState.PREFILLING if feeding else RowState.DECODING
        return RowState.KEPT if self.holds_kv else RowState.WAITING

    @property
    def holds_kv(self) -> bool:
        """Whether KV of the row exists or is being computed, in pages or on the host."""
        return self.unprefilled < self.known_tokens

    @property
    def known_tokens(self) -> int:
        """Tokens of the row that the router has seen: the prompt and what was emitted."""
        return self.job.prompt + self.emitted

    @property
    def remaining_tokens(self) -> int:
        """Maximum number of tokens left to emit; 0 if the Steps in flight exhaust the row."""
        return self.job.max_new - self.emitted - self.min_pending

    @property
    def tokens_per_round(self) -> float:
        """Expected tokens of a round, whichever drafts."""
        own = self.acceptance.expected_tokens(self.draft_length)
        if not self.suffix_share:
            return own
        suffix = self.suffix_acceptance.expected_tokens(self.suffix_length)
        return own + self.suffix_share * (suffix - own)

    def schedule(self, prefill: int, max_emitted: int) -> None:
        """A Step was planned that feeds `prefill` known tokens and emits up to `max_emitted`."""
        self.started = True
        self.unprefilled -= prefill
        self.steps_in_flight += 1
        self.min_pending += max_emitted > 0
        self.max_pending += max_emitted

    def swap_in(self) -> None:
        """A Step was planned that copies its KV back from the host."""
        self.steps_in_flight += 1
        self.swapping_in = True

    def complete(self, max_emitted: int) -> None:
        """The oldest Step in flight, planned with `max_emitted`, is done."""
        self.steps_in_flight -= 1
        self.swapping_in = False
        self.min_pending -= max_emitted > 0
        self.max_pending -= max_emitted

    def apply_outcome(self, outcome: Outcome) -> None:
        """A Step that is done had this outcome for the row."""
        self.emitted += outcome.emitted
        self.device_seconds += outcome.seconds
        if not outcome.prefilled:
            self._count_suffix(outcome)
            self.draft_lag = 0 if outcome.drafted else self.draft_lag + outcome.emitted
        self.hashes.extend(outcome.hashes)
        self.cached = self.known_tokens - 1 if outcome.emitted else self.cached + outcome.prefilled
        self.draft_cached = outcome.draft_cached
        if outcome.prefilled:
            self.draft_lag = self.cached - self.draft_cached

    def _count_suffix(self, outcome: Outcome) -> None:
        if self.max_suffix:
            self.suffix_share += SUFFIX_SHARE_WEIGHT * ((outcome.suffix > 0) - self.suffix_share)

    def end(self) -> None:
        """The row ended, or was cancelled."""
        self.ended = True

    def shareable_prefix(self, page_size: int) -> list[int]:
        """Return the hashes of the pages that lie wholly before its last known token."""
        return self.hashes[: (self.known_tokens - 1) // page_size]

    def pending_prefix(self, page_size: int) -> list[int]:
        """Return the hashes of the pages that its prefill in flight is about to fill."""
        fed = self.known_tokens - self.unprefilled
        return (
            self.hashes[self.cached // page_size : fed // page_size]
            if self.cached < fed - 1
            else []
        )

    def start_from_cache(self, cached: int, draft_cached: int) -> None:
        """Start with KV of the first `cached` known tokens, `draft_cached` for the draft too."""
        self.cached, self.draft_cached = cached, draft_cached
        self.draft_lag = cached - draft_cached
        self.unprefilled = self.known_tokens - cached

    def reset(self) -> None:
        """All KV and every Step in flight are void: start again from the first token."""
        self.start_from_cache(0, 0)
        self.steps_in_flight = self.min_pending = self.max_pending = 0
        self.published_pages = self.draft_complete_pages = 0
        self.host_slots = ()
        self.swapping_in = False
