"""One live request as every policy and the planner see it: facts, and their projection.

Two Steps may be in flight, so a row has a known state (what outcomes said) and a projected one
(what is certain, and what is possible, once the Steps in flight have landed). A Step in flight
that emits at all emits at least one token; how many more, only the shards know.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from router.scheduler.acceptance import Survival
from router.scheduler.api import Job, Outcome

PREEMPTIONS = ("keep", "swap", "recompute")
"""Kinds of preemption: its pages stay, go to the host, or are lost."""


@dataclass(slots=True, eq=False)
class Row:
    """A live request. The planner alone writes to it."""

    job: Job
    survival: Survival
    draft_cap: int
    """Longest draft that job and capacity allow."""
    emitted: int = 0
    """Tokens known to be emitted."""
    attained: float = 0.0
    """Device seconds received."""
    unfed: int = field(init=False)
    """Known tokens not yet in a Step; prompt and emitted ones after KV was lost."""
    in_flight: int = 0
    """Steps in flight that name this row."""
    certain: int = 0
    """Fewest tokens that those Steps emit, unless the row ends."""
    possible: int = 0
    """Most tokens that those Steps emit."""
    draft: int = field(init=False)
    """Length of the draft in its last round, or the cap before the first."""
    lag: int = 0
    """Tokens emitted since it last drafted, which a draft model has not seen."""
    started: bool = False
    """Was in a Batch since it arrived."""
    hashes: list[int] = field(init=False)
    """Names of the full pages of its known tokens; empty where it shares nothing."""
    cached: int = 0
    """Leading tokens whose KV the target is known to hold, in pages or on the host."""
    draft_cached: int = 0
    """The same of the draft."""
    published: int = 0
    """Leading pages that others may share."""
    completed: int = 0
    """Those of them that hold the draft's part too."""
    slots: tuple[int, ...] = ()
    """Where on the host its KV is, while it is swapped out."""
    returning: bool = False
    """The Step in flight that names it brings back its KV."""
    preemptions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PREEMPTIONS, 0))
    """How often it was displaced, by kind."""

    def __post_init__(self) -> None:
        self.unfed = self.job.prompt
        self.draft = self.draft_cap
        self.hashes = list(self.job.hashes)

    @property
    def known(self) -> int:
        """Tokens of the row that the router has seen."""
        return self.job.prompt + self.emitted

    @property
    def remaining(self) -> int:
        """Most tokens left to emit for certain; 0 where the Steps in flight exhaust the row."""
        return self.job.max_new - self.emitted - self.certain

    def fly(self, prefill: int, possible: int) -> None:
        """A Step that feeds `prefill` known tokens and emits up to `possible` was planned."""
        self.started = True
        self.unfed -= prefill
        self.in_flight += 1
        self.certain += possible > 0
        self.possible += possible

    def recall(self) -> None:
        """A Step that brings back its KV was planned."""
        self.in_flight += 1
        self.returning = True

    def land(self, possible: int) -> None:
        """The oldest Step in flight, planned with `possible`, is done."""
        self.in_flight -= 1
        self.returning = False
        self.certain -= possible > 0
        self.possible -= possible

    def learn(self, outcome: Outcome) -> None:
        """A Step did this for the row."""
        self.emitted += outcome.emitted
        self.attained += outcome.seconds
        if not outcome.prefilled:
            self.lag = 0 if outcome.drafted else self.lag + outcome.emitted
        self.hashes.extend(outcome.hashes)
        self.cached = self.known - 1 if outcome.emitted else self.cached + outcome.prefilled
        self.draft_cached = outcome.draft_cached
        if outcome.prefilled:
            self.lag = self.cached - self.draft_cached

    def shareable(self, size: int) -> list[int]:
        """Names of the pages of `size` tokens that lie wholly before its last known token."""
        return self.hashes[: (self.known - 1) // size]

    def coming(self, size: int) -> list[int]:
        """Names of the pages that its prefill in flight is about to fill."""
        fed = self.known - self.unfed
        return self.hashes[self.cached // size : fed // size] if self.cached < fed - 1 else []

    def skip(self, tokens: int, drafted: int) -> None:
        """Start with KV for the first `tokens` known tokens, `drafted` of them in the draft too."""
        self.cached, self.draft_cached = tokens, drafted
        self.lag = tokens - drafted
        self.unfed = self.known - tokens

    def forget(self) -> None:
        """All KV and every Step in flight are void: start again from the first token."""
        self.skip(0, 0)
        self.in_flight = self.certain = self.possible = 0
        self.published = self.completed = 0
        self.slots = ()
        self.returning = False
