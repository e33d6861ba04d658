"""One live request as every policy and the planner see it: facts, and their projection.

Two Steps may be in flight, so a row has a known state (what outcomes said) and a projected one
(what is certain, and what is possible, once the Steps in flight have landed). A Step in flight
that emits at all emits at least one token; how many more, only the shards know.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from router.scheduler.acceptance import Survival
from router.scheduler.base import Job


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

    def __post_init__(self) -> None:
        self.unfed = self.job.prompt
        self.draft = self.draft_cap

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

    def land(self, possible: int) -> None:
        """The oldest Step in flight, planned with `possible`, is done."""
        self.in_flight -= 1
        self.certain -= possible > 0
        self.possible -= possible

    def forget(self) -> None:
        """All KV and every Step in flight are void: start again from the first token."""
        self.unfed = self.known
        self.in_flight = self.certain = self.possible = self.lag = 0
