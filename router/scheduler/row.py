"""One live request as every policy and the planner see it: facts, and their projection.

Two Steps may be in flight, so a row has a known state (what outcomes said) and a projected one
(what is certain, and what is possible, once the Steps in flight have landed). A Step in flight
that emits at all emits at least one token; how many more, only the shards know.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from router.scheduler.acceptance import AcceptanceCurve
from router.scheduler.api import Job, Outcome

PREEMPTION_KINDS = ("keep", "swap", "recompute")
"""Kinds of preemption: its pages stay, go to the host, or are lost."""


@dataclass(slots=True, eq=False)
class Row:
    """A live request. The planner alone writes to it."""

    job: Job
    acceptance: AcceptanceCurve
    max_draft: int
    """Longest draft that job and capacity allow."""
    emitted: int = 0
    """Tokens known to be emitted."""
    device_seconds: float = 0.0
    """Device seconds received."""
    unprefilled: int = field(init=False)
    """Known tokens not yet in a Step; prompt and emitted ones after KV was lost."""
    steps_in_flight: int = 0
    """Steps in flight that name this row."""
    min_pending: int = 0
    """Fewest tokens that those Steps emit, unless the row ends."""
    max_pending: int = 0
    """Most tokens that those Steps emit."""
    draft_length: int = field(init=False)
    """Length of the draft in its last round, or the cap before the first."""
    draft_lag: int = 0
    """Tokens emitted since it last drafted, which a draft model has not seen."""
    started: bool = False
    """Was in a Batch since it arrived."""
    hashes: list[int] = field(init=False)
    """Names of the full pages of its known tokens; empty where it shares nothing."""
    cached: int = 0
    """Leading tokens whose KV the target is known to hold, in pages or on the host."""
    draft_cached: int = 0
    """The same of the draft."""
    published_pages: int = 0
    """Leading pages that others may share."""
    draft_complete_pages: int = 0
    """Those of them that hold the draft's part too."""
    host_slots: tuple[int, ...] = ()
    """Where on the host its KV is, while it is swapped out."""
    swapping_in: bool = False
    """The Step in flight that names it brings back its KV."""
    preemptions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PREEMPTION_KINDS, 0))
    """How often it was displaced, by kind."""

    def __post_init__(self) -> None:
        self.unprefilled = self.job.prompt
        self.draft_length = self.max_draft
        self.hashes = list(self.job.hashes)

    @property
    def known_tokens(self) -> int:
        """Tokens of the row that the router has seen."""
        return self.job.prompt + self.emitted

    @property
    def remaining_tokens(self) -> int:
        """Most tokens left to emit for certain; 0 where the Steps in flight exhaust the row."""
        return self.job.max_new - self.emitted - self.min_pending

    def schedule(self, prefill: int, max_emitted: int) -> None:
        """A Step that feeds `prefill` known tokens and emits up to `possible` was planned."""
        self.started = True
        self.unprefilled -= prefill
        self.steps_in_flight += 1
        self.min_pending += max_emitted > 0
        self.max_pending += max_emitted

    def swap_in(self) -> None:
        """A Step that brings back its KV was planned."""
        self.steps_in_flight += 1
        self.swapping_in = True

    def complete(self, max_emitted: int) -> None:
        """The oldest Step in flight, planned with `possible`, is done."""
        self.steps_in_flight -= 1
        self.swapping_in = False
        self.min_pending -= max_emitted > 0
        self.max_pending -= max_emitted

    def apply_outcome(self, outcome: Outcome) -> None:
        """A Step did this for the row."""
        self.emitted += outcome.emitted
        self.device_seconds += outcome.seconds
        if not outcome.prefilled:
            self.draft_lag = 0 if outcome.drafted else self.draft_lag + outcome.emitted
        self.hashes.extend(outcome.hashes)
        self.cached = self.known_tokens - 1 if outcome.emitted else self.cached + outcome.prefilled
        self.draft_cached = outcome.draft_cached
        if outcome.prefilled:
            self.draft_lag = self.cached - self.draft_cached

    def shareable_prefix(self, page_size: int) -> list[int]:
        """Names of the pages of `size` tokens that lie wholly before its last known token."""
        return self.hashes[: (self.known_tokens - 1) // page_size]

    def pending_prefix(self, page_size: int) -> list[int]:
        """Names of the pages that its prefill in flight is about to fill."""
        fed = self.known_tokens - self.unprefilled
        return (
            self.hashes[self.cached // page_size : fed // page_size]
            if self.cached < fed - 1
            else []
        )

    def start_from_cache(self, cached: int, draft_cached: int) -> None:
        """Start with KV for the first `tokens` known tokens, `drafted` of them in the draft too."""
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
