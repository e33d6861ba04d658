"""LAPS-SD (arXiv 2505.17074, Algorithm 1): least attained service until acceptance is predictable.

A request starts non-perceptible in level 1 and sinks as its attained service passes Sup_j. Once
its acceptance rate is stable it is perceptible: its remaining execution time

    T = L / (n*A + 1) * (n*T_SSM + T_LLM)

is known well enough to put it into the level whose bracket holds T. There is no way back. Higher
levels preempt lower ones. Inside a level perceptible rows come first, shortest T first; the others
keep the order in which they entered, so they do not preempt one another.

Where the paper is silent, the choice is ours: the meaning of the two stability thresholds, the
order of the two kinds in a level, and the remainder of the answer, not its length, for L.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from router.scheduler.acceptance import Stability
from router.scheduler.base import Capacity, End, Outcome
from router.scheduler.length import Lengths
from router.scheduler.levels import Levels, Rank
from router.scheduler.row import Row

_BLIND: Rank = (1, 0.0)


def execution_time(tokens: float, per_round: float, draft: int, capacity: Capacity) -> float:
    """Seconds to emit `tokens` in rounds of `draft` drafts that yield `per_round` tokens each."""
    cost = draft * capacity.draft_token_seconds + capacity.verify_seconds
    return tokens / per_round * cost


class Laps:
    """The paper's policy. `window` is its gamma in rounds, `deviation` its delta."""

    def __init__(self, capacity: Capacity, levels: Levels, window: int, deviation: float) -> None:
        """Raises ValueError for a window or a deviation that mean nothing."""
        Stability(window, deviation)  # refuses them now, not at the first request
        self._capacity = capacity
        self._levels = levels
        self._stability = (window, deviation)
        self._lengths = Lengths()
        self._blind: dict[int, Stability] = {}
        """Non-perceptible rows."""
        self._perceptible: set[int] = set()

    @property
    def levels(self) -> int:
        return self._levels.count

    @property
    def perceptible(self) -> int:
        return len(self._perceptible)

    def level(self, row: Row) -> int:
        return self._levels.level(row)

    def arrive(self, row: Row, now: float) -> None:
        self._blind[row.job.id] = Stability(*self._stability)
        self._levels.enter(row, 1, _BLIND, now)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        self._levels.serve(row, outcome, now)
        if row.job.id in self._blind:
            self._watch(row, outcome)
        if row.job.id in self._perceptible:
            seconds = self._remaining(row)
            self._levels.move(row, self._levels.bracket(seconds), (0, seconds))
        else:
            self._levels.demote(row)

    def leave(self, row: Row, end: End | None) -> None:
        self._levels.leave(row)
        self._blind.pop(row.job.id, None)
        self._perceptible.discard(row.job.id)
        if end in (End.EOS, End.LENGTH):
            self._lengths.observe(row.emitted)

    def order(self, now: float) -> Sequence[Row]:
        return self._levels.order(now)

    def _watch(self, row: Row, outcome: Outcome) -> None:
        stability = self._blind[row.job.id]
        stability.observe(outcome.drafted, outcome.accepted)
        settled = row.draft == 0 and row.emitted > 0  # nothing to learn without drafts
        if settled or stability.stable:
            del self._blind[row.job.id]
            self._perceptible.add(row.job.id)

    def _remaining(self, row: Row) -> float:
        """Estimated seconds of service that `row` still needs, Steps in flight counted as done."""
        per_round = row.survival.tokens(row.draft)
        total = self._lengths.total(row.job, row.emitted)
        tokens = max(1.0, total - row.emitted - row.certain * per_round)
        decode = execution_time(tokens, per_round, row.draft, self._capacity)
        chunks = ceil(row.unfed / self._capacity.prefill_tokens)
        return decode + chunks * self._capacity.verify_seconds
