"""The rank of LAPS-SD: the size of each live row, and what priority, tail and fairness make of it.

    size = tokens of work left / tokens per round * seconds per round + prefill that is due

where the tokens of work are the Gittins index of the length left, or its mean. Owns the sizes as
last computed. Knows nothing of levels, ageing and perception.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from router.scheduler.estimation.estimator import Estimator
from router.scheduler.policies.fairness import TenantFairness
from router.scheduler.policies.gittins import GittinsTables
from router.scheduler.policies.multilevel_queue import RankInLevel
from router.scheduler.policies.tail_boost import boosted_arrival
from router.scheduler.row import Row

if TYPE_CHECKING:  # the configuration lists the policies, so it imports them
    from router.scheduler.config import SchedulerConfig

HYSTERESIS = 0.1
"""Relative rise of a size that is ignored, so that rows of equal size do not take turns.

While a row waits for its first service a fall is ignored too: then it is noise in what was learned.
"""
MEAN_SIZE_WINDOW = 64
"""Arrivals over which the mean size is taken."""


class LapsRank:
    """Ranks live rows, least first."""

    def __init__(self, estimator: Estimator, config: SchedulerConfig, granularity: float) -> None:
        """`granularity`: seconds of service below which tenants count as equally served."""
        self._estimator = estimator
        self._config = config
        self._gittins = GittinsTables() if config.laps_rank == "gittins" else None
        self._fairness = TenantFairness(granularity) if config.laps_fairness else None
        self._sizes: dict[int, float] = {}
        """Seconds, by id."""
        self._arrivals, self._mean_size = 0, 0.0
        """Arrivals, up to `MEAN_SIZE_WINDOW`, and their mean size."""

    def add(self, row: Row) -> None:
        """Add a row; `update` gives it a size."""
        if self._fairness:
            self._fairness.add_request(row.job.tenant)

    def remove(self, row: Row) -> None:
        """Remove a row."""
        del self._sizes[row.job.id]
        if self._fairness:
            self._fairness.remove_request(row.job.tenant)

    def record_service(self, row: Row, seconds: float) -> bool:
        """A Step served `row`. Return whether that changed the ranks of other rows."""
        if self._fairness is None:
            return False
        return self._fairness.record_service(row.job.tenant, seconds)

    def size(self, row: Row) -> float:
        """Return the size of a live row as last computed, in seconds."""
        return self._sizes[row.job.id]

    def update(self, row: Row) -> bool:
        """Compute the size of a row. Return whether it changed: a small change is ignored."""
        size, before = self._work_seconds(row), self._sizes.get(row.job.id)
        if before is not None:
            floor = before if row.device_seconds else before / (1 + HYSTERESIS)
            if floor <= size <= before * (1 + HYSTERESIS):
                return False
        return self._set_size(row, size)

    def copy_size(self, row: Row, like: Row) -> bool:
        """Give a row the size of a live one. Return whether it changed."""
        size = self._sizes[like.job.id]
        return size != self._sizes.get(row.job.id) and self._set_size(row, size)

    def rank(self, row: Row) -> RankInLevel:
        """Return the rank of a live row, by its size as last computed."""
        size = self._sizes[row.job.id]
        if self._fairness:
            size += self._config.laps_fairness * self._fairness.excess_service(row.job.tenant)
        if self._config.laps_tail:
            size = boosted_arrival(row.job.arrived, size, self._config.laps_tail, self._mean_size)
        return (row.job.priority, size)

    def _set_size(self, row: Row, size: float) -> bool:
        """Set a size, and count it in the mean if the row has just arrived. Return True."""
        if row.job.id not in self._sizes:
            self._arrivals = min(self._arrivals + 1, MEAN_SIZE_WINDOW)
            self._mean_size += (size - self._mean_size) / self._arrivals
        self._sizes[row.job.id] = size
        return True

    def _work_seconds(self, row: Row) -> float:
        per_round = row.acceptance.expected_tokens(row.draft_length)
        emitted = row.emitted + row.min_pending * per_round
        lengths = self._estimator.length_distribution(row)
        if self._gittins and lengths.sigma:
            work = self._gittins.work_per_completion(lengths, emitted, row.job.max_new)
            tokens = max(1.0, work)
        else:
            tokens = self._estimator.expected_remaining_tokens(row, emitted)
        return self._estimator.service_seconds(row, tokens, per_round)
