"""LAPS-SD for continuous batching: the paper's algorithm, and parts that can each be switched off.

With all parts off it decides as `paper` does. What a part adds, and where it comes from:

- rank: one order by estimated remaining time, or by Gittins' index of it, in place of queues;
- join: an arrival enters by its prior estimate, not in queue 1 (FastServe's skip-join);
- perception: a request is perceptible while its yield is known within `width` and its answer has
  not outrun its prediction, not for ever once a window of rounds was stable;
- hysteresis: an estimate that rises by less than this share moves no request down, so equals do not
  take turns; a request past the share `lock` of its service is not displaced any more (TRAIL);
- volume: with pages short, time is weighed by the pages that are held meanwhile (Sorted-F);
- tail: order by arrival less a boost for the small (`tail_boost`);
- fairness: service that a tenant received beyond the least served one counts as size (VTC).

Priority is always heeded, and ageing is that of `levels`. Estimates of rows that wait are renewed
a few at a time, in turn, after what they rest on has changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from router.scheduler.acceptance import AcceptanceStability
from router.scheduler.api import Outcome, RowEnded
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.policies.fairness import TenantFairness
from router.scheduler.policies.gittins import GittinsTables
from router.scheduler.policies.multilevel_queue import MultilevelQueue, RankInLevel
from router.scheduler.policies.tail_boost import boosted_arrival
from router.scheduler.row import Row

RERANKED_ROWS = 32
"""Rows that wait whose estimates are renewed before a Step."""
MEAN_SIZE_WINDOW = 64
"""Arrivals over which the mean size is taken."""
PRESSURE_FROM = 0.7
"""Share of pages in use below which they are not short."""
PRESSURE_STEPS = 8
"""Steps in which the weight of volume rises from there to its greatest."""


@dataclass(frozen=True, slots=True)
class LapsOptions:
    """What is switched on. The defaults are off: the paper's algorithm."""

    rank: str = "queues"
    """queues, remaining or gittins."""
    join: bool = False
    perception: str = "window"
    """window or posterior."""
    window: int = 4
    """gamma, of the perception `window`."""
    deviation: float = 0.08
    """delta."""
    width: float = 0.2
    hysteresis: float = 0.0
    lock: float = 1.0
    volume: float = 0.0
    """Greatest exponent of the pages held, when all pages are in use."""
    tail: float = 0.0
    """0: by size alone; 1: by arrival alone."""
    fairness: float = 0.0
    """Seconds of size that a second of service beyond another tenant's counts for."""


@dataclass(slots=True, eq=False)
class _RankedRow:
    row: Row
    order_entered: int
    stability: AcceptanceStability | None
    level: int = 1
    perceptible: bool = False
    size: float = 0.0
    """Estimated seconds, or work, as last ranked."""
    removed: bool = False


class Laps:
    """The policy."""

    def __init__(
        self,
        estimator: Estimator,
        level_queue: MultilevelQueue,
        aging_queue: MultilevelQueue,
        options: LapsOptions,
    ) -> None:
        """`brackets`: K levels for their thresholds. `waits`: one level, for order and ageing.

        Raises ValueError for a window or a deviation that mean nothing.
        """
        AcceptanceStability(
            options.window, options.deviation
        )  # refuses them now, not at the first request
        self._estimator, self._level_queue, self._aging_queue = estimator, level_queue, aging_queue
        self._options = options
        self._gittins = GittinsTables()
        self._fairness = TenantFairness(aging_queue.quantum) if options.fairness else None
        self._ranked_rows: dict[int, _RankedRow] = {}
        self._rerank_ring: deque[_RankedRow] = deque()
        self._stale_count = 0
        """Places at the head of the ring that may be out of date."""
        self._lengths_version = 0
        self._page_pressure = 0
        """Of `PRESSURE_STEPS`: how short pages are."""
        self._mean_tokens_held = 1.0
        """Pages that a request holds on average while it lasts."""
        self._arrivals, self._mean_size = 0, 0.0
        """Arrivals, at most `MEAN_SIZE_WINDOW`, and their mean size."""
        self._tickets = count()
        self._perceptible_count = 0

    @property
    def level_count(self) -> int:
        return self._level_queue.count

    @property
    def perceptible_count(self) -> int:
        return self._perceptible_count

    def is_perceptible(self, row: Row) -> bool:
        return self._ranked_rows[row.job.id].perceptible

    def level(self, row: Row) -> int:
        return self._ranked_rows[row.job.id].level if self._aging_queue.level(row) else 0

    def add(self, row: Row, now: float) -> None:
        parts = self._options
        watch = (
            AcceptanceStability(parts.window, parts.deviation)
            if parts.perception == "window"
            else None
        )
        place = _RankedRow(row, next(self._tickets), watch)
        self._ranked_rows[row.job.id] = place
        self._rerank_ring.append(place)
        if self._fairness:
            self._fairness.add_request(row.job.tenant)
        if parts.join or parts.rank != "queues":
            place.size = self._size(row)
            self._arrivals = min(self._arrivals + 1, MEAN_SIZE_WINDOW)
            self._mean_size += (place.size - self._mean_size) / self._arrivals
            place.level = self._level_queue.level_for(self._estimator.remaining_seconds(row))
        self._aging_queue.add(row, 1, self._rank(place), now)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        place = self._ranked_rows[row.job.id]
        self._aging_queue.record_service(row, outcome, now)
        if self._fairness and self._fairness.record_service(row.job.tenant, outcome.seconds):
            self._stale_count = len(self._rerank_ring)
        self._update_perceptibility(place, outcome)
        if self._options.rank == "queues":
            self._update_level(place)
        else:
            self._update_size(place)

    def remove(self, row: Row, end: RowEnded | None) -> None:
        place = self._ranked_rows.pop(row.job.id)
        place.removed = True
        self._aging_queue.remove(row)
        self._perceptible_count -= place.perceptible
        if self._fairness:
            self._fairness.remove_request(row.job.tenant)

    def order(self, now: float, page_usage: float) -> Sequence[Row]:
        if self._options.rank == "queues":
            return self._aging_queue.order(now)
        self._update_page_pressure(page_usage)
        if self._lengths_version != self._estimator.lengths.version:
            self._lengths_version = self._estimator.lengths.version
            self._stale_count = len(self._rerank_ring)
        if self._stale_count:
            self._rerank_some()
        return self._aging_queue.order(now)

    def _update_perceptibility(self, ranked: _RankedRow, outcome: Outcome) -> None:
        row, before = ranked.row, ranked.perceptible
        if ranked.stability is not None:
            if not before:
                ranked.stability.observe(outcome.drafted, outcome.accepted)
                # Without drafts there is nothing to learn.
                ranked.perceptible = ranked.stability.is_stable or (
                    not row.draft_length and row.emitted > 0
                )
        else:
            known = (
                row.emitted > 0
                and row.acceptance.relative_std(row.draft_length) <= self._options.width
            )
            ranked.perceptible = known and not self._estimator.exceeded_prediction(row)
        self._perceptible_count += ranked.perceptible - before

    def _update_level(self, ranked: _RankedRow) -> None:
        """As the paper has it: the time decides if it is known, else the attained service."""
        level = ranked.level
        if ranked.perceptible:
            ranked.size = self._estimator.remaining_seconds(ranked.row)
            level = self._level_queue.level_for(ranked.size)
        elif level < self._level_queue.count:
            level += ranked.row.device_seconds > self._level_queue.thresholds[level - 1]
        if level != ranked.level:
            ranked.level, ranked.order_entered = level, next(self._tickets)
        self._aging_queue.move(ranked.row, 1, self._rank(ranked))

    def _update_size(self, ranked: _RankedRow) -> None:
        size, before = self._size(ranked.row), ranked.size
        if not before < size <= before * (1 + self._options.hysteresis):
            ranked.size = size
            ranked.level = self._level_queue.level_for(size)
        self._aging_queue.move(ranked.row, 1, self._rank(ranked))

    def _rank(self, ranked: _RankedRow) -> RankInLevel:
        priority = ranked.row.job.priority
        if self._options.rank == "queues":
            kind = (0, ranked.size) if ranked.perceptible else (1, 0.0)
            return (priority, ranked.level, *kind, ranked.order_entered)
        row, size = ranked.row, ranked.size
        if row.device_seconds >= self._options.lock * (row.device_seconds + size) > 0:
            return (priority, 0, size)
        if self._fairness:
            size += self._options.fairness * self._fairness.excess_service(row.job.tenant)
        if self._options.tail:
            size = boosted_arrival(row.job.arrived, size, self._options.tail, self._mean_size)
        return (priority, 1, size)

    def _size(self, row: Row) -> float:
        """What the continuous order ranks by, in seconds."""
        estimator = self._estimator
        per_round = row.acceptance.expected_tokens(row.draft_length)
        emitted = row.emitted + row.min_pending * per_round
        law = estimator.length_distribution(row)
        if self._options.rank == "gittins" and law.sigma:
            tokens = max(1.0, self._gittins.work_per_completion(law, emitted, row.job.max_new))
        else:
            tokens = estimator.expected_remaining_tokens(row, emitted)
        seconds = estimator.service_seconds(row, tokens, per_round)
        if self._page_pressure:
            held = row.job.prompt + emitted + tokens / 2
            seconds *= (held / self._mean_tokens_held) ** (
                self._options.volume * self._page_pressure / PRESSURE_STEPS
            )
        return seconds

    def _update_page_pressure(self, page_usage: float) -> None:
        """Notice how short pages are."""
        if not self._options.volume:
            return
        short = max(0.0, page_usage - PRESSURE_FROM) / (1 - PRESSURE_FROM) * PRESSURE_STEPS
        if not self._page_pressure - 0.5 <= short <= self._page_pressure + 1.5:
            rows = [place.row.known_tokens for place in self._ranked_rows.values()]
            self._mean_tokens_held = max(1.0, sum(rows) / max(1, len(rows)))
            self._page_pressure = int(short)
            self._stale_count = len(self._rerank_ring)

    def _rerank_some(self) -> None:
        for _ in range(min(RERANKED_ROWS, self._stale_count)):
            place = self._rerank_ring.popleft()
            if not place.removed:
                self._rerank_ring.append(place)
                self._update_size(place)
        self._stale_count = max(0, self._stale_count - RERANKED_ROWS)
