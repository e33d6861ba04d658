"""Which live rows are perceptible: their acceptance is known well enough to estimate a time.

Two rules. `window` is the paper's: once the acceptance was stable over a window of rounds, for
good. `posterior`: while the tokens per round are known within a relative deviation and the answer
has not exceeded its prediction, so there is a way back. Decides nothing about order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.scheduler.acceptance import AcceptanceStability
from router.scheduler.api import Outcome
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.row import Row

if TYPE_CHECKING:  # the configuration lists the policies, so it imports them
    from router.scheduler.config import SchedulerConfig


class Perception:
    """The perceptible rows among the live ones."""

    def __init__(self, estimator: Estimator, config: SchedulerConfig) -> None:
        """Raises ValueError for a window or a deviation that make no sense."""
        AcceptanceStability(config.laps_window, config.laps_deviation)  # fail now, not at a request
        self._estimator = estimator
        self._config = config
        self._stability: dict[int, AcceptanceStability] = {}
        """By id, with the rule `window`, until the row is perceptible."""
        self._perceptible: set[int] = set()

    def __len__(self) -> int:
        return len(self._perceptible)

    def __contains__(self, row: Row) -> bool:
        return row.job.id in self._perceptible

    def add(self, row: Row) -> None:
        """Add a row; it is not perceptible yet."""
        if self._config.laps_perception == "window":
            self._stability[row.job.id] = AcceptanceStability(
                self._config.laps_window, self._config.laps_deviation
            )

    def observe(self, row: Row, outcome: Outcome) -> None:
        """A Step served `row`, which already counts `outcome`."""
        id = row.job.id
        if self._config.laps_perception == "posterior":
            self._perceptible.discard(id)
            if self._is_known(row):
                self._perceptible.add(id)
        elif id in self._stability:
            stability = self._stability[id]
            stability.observe(outcome.drafted, outcome.accepted)
            # Without drafts there is nothing to learn.
            if stability.is_stable or (not row.draft_length and row.emitted > 0):
                del self._stability[id]
                self._perceptible.add(id)

    def remove(self, row: Row) -> None:
        """Remove a row."""
        self._stability.pop(row.job.id, None)
        self._perceptible.discard(row.job.id)

    def _is_known(self, row: Row) -> bool:
        deviation = row.acceptance.relative_std(row.draft_length)
        known = row.emitted > 0 and deviation <= self._config.laps_width
        return known and not self._estimator.exceeded_prediction(row)
