"""LAPS-SD for continuous batching: the paper's algorithm, and parts that can each be switched off.

With all parts off it decides as `paper` does. What a part adds, and where it comes from:

- rank: one order by estimated remaining time, or by Gittins' index of it, in place of queues;
- join: an arrival enters by its prior estimate, not in queue 1 (FastServe's skip-join);
- perception: a request is perceptible while its yield is known within `width` and its answer has
  not outrun its prediction, not for ever once a window of rounds was stable;
- hysteresis: an estimate that rises by less than this share moves no request down, so equals do not
  take turns; a request past the share `lock` of its service is not displaced any more (TRAIL);
- volume: with pages short, time is weighed by the pages that are held meanwhile (Sorted-F);
- tail: order by arrival less a boost for the small (`boost`);
- fairness: service that a tenant received beyond the least served one counts as size (VTC).

Priority is always heeded, and ageing is that of `levels`. Estimates of rows that wait are renewed
a few at a time, in turn, after what they rest on has changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from router.scheduler.acceptance import Stability
from router.scheduler.api import End, Outcome
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.policies.fairness import Tenants
from router.scheduler.policies.gittins import Gittins
from router.scheduler.policies.multilevel_queue import Levels, Rank
from router.scheduler.policies.tail_boost import boosted
from router.scheduler.row import Row

RENEWED = 32
"""Rows that wait whose estimates are renewed before a Step."""
USUAL = 64
"""Arrivals over which the mean size is taken."""
EASY = 0.7
"""Share of pages in use below which they are not short."""
GRAIN = 8
"""Steps in which the weight of volume rises from there to its greatest."""


@dataclass(frozen=True, slots=True)
class Parts:
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
class _Place:
    row: Row
    entered: int
    stability: Stability | None
    level: int = 1
    perceptible: bool = False
    size: float = 0.0
    """Estimated seconds, or work, as last ranked."""
    gone: bool = False


class Laps:
    """The policy."""

    def __init__(self, estimator: Estimator, brackets: Levels, waits: Levels, parts: Parts) -> None:
        """`brackets`: K levels for their thresholds. `waits`: one level, for order and ageing.

        Raises ValueError for a window or a deviation that mean nothing.
        """
        Stability(parts.window, parts.deviation)  # refuses them now, not at the first request
        self._estimator, self._brackets, self._waits = estimator, brackets, waits
        self._parts = parts
        self._gittins = Gittins()
        self._tenants = Tenants(waits.quantum) if parts.fairness else None
        self._places: dict[int, _Place] = {}
        self._ring: deque[_Place] = deque()
        self._stale = 0
        """Places at the head of the ring that may be out of date."""
        self._version = 0
        self._short = 0
        """Of `GRAIN`: how short pages are."""
        self._held = 1.0
        """Pages that a request holds on average while it lasts."""
        self._arrived, self._usual = 0, 0.0
        """Arrivals, at most `USUAL`, and their mean size."""
        self._tickets = count()
        self._perceptible = 0

    @property
    def levels(self) -> int:
        return self._brackets.count

    @property
    def perceptible(self) -> int:
        return self._perceptible

    def perceives(self, row: Row) -> bool:
        return self._places[row.job.id].perceptible

    def level(self, row: Row) -> int:
        return self._places[row.job.id].level if self._waits.level(row) else 0

    def arrive(self, row: Row, now: float) -> None:
        parts = self._parts
        watch = Stability(parts.window, parts.deviation) if parts.perception == "window" else None
        place = _Place(row, next(self._tickets), watch)
        self._places[row.job.id] = place
        self._ring.append(place)
        if self._tenants:
            self._tenants.arrive(row.job.tenant)
        if parts.join or parts.rank != "queues":
            place.size = self._size(row)
            self._arrived = min(self._arrived + 1, USUAL)
            self._usual += (place.size - self._usual) / self._arrived
            place.level = self._brackets.bracket(self._estimator.remaining(row))
        self._waits.enter(row, 1, self._rank(place), now)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        place = self._places[row.job.id]
        self._waits.serve(row, outcome, now)
        if self._tenants and self._tenants.serve(row.job.tenant, outcome.seconds):
            self._stale = len(self._ring)
        self._perceive(place, outcome)
        if self._parts.rank == "queues":
            self._queue(place)
        else:
            self._resize(place)

    def leave(self, row: Row, end: End | None) -> None:
        place = self._places.pop(row.job.id)
        place.gone = True
        self._waits.leave(row)
        self._perceptible -= place.perceptible
        if self._tenants:
            self._tenants.leave(row.job.tenant)

    def order(self, now: float, used: float) -> Sequence[Row]:
        if self._parts.rank == "queues":
            return self._waits.order(now)
        self._press(used)
        if self._version != self._estimator.lengths.version:
            self._version = self._estimator.lengths.version
            self._stale = len(self._ring)
        if self._stale:
            self._renew()
        return self._waits.order(now)

    def _perceive(self, place: _Place, outcome: Outcome) -> None:
        row, before = place.row, place.perceptible
        if place.stability is not None:
            if not before:
                place.stability.observe(outcome.drafted, outcome.accepted)
                # Without drafts there is nothing to learn.
                place.perceptible = place.stability.stable or (not row.draft and row.emitted > 0)
        else:
            known = row.emitted > 0 and row.survival.width(row.draft) <= self._parts.width
            place.perceptible = known and not self._estimator.outrun(row)
        self._perceptible += place.perceptible - before

    def _queue(self, place: _Place) -> None:
        """As the paper has it: the time decides if it is known, else the attained service."""
        level = place.level
        if place.perceptible:
            place.size = self._estimator.remaining(place.row)
            level = self._brackets.bracket(place.size)
        elif level < self._brackets.count:
            level += place.row.attained > self._brackets.thresholds[level - 1]
        if level != place.level:
            place.level, place.entered = level, next(self._tickets)
        self._waits.move(place.row, 1, self._rank(place))

    def _resize(self, place: _Place) -> None:
        size, before = self._size(place.row), place.size
        if not before < size <= before * (1 + self._parts.hysteresis):
            place.size = size
            place.level = self._brackets.bracket(size)
        self._waits.move(place.row, 1, self._rank(place))

    def _rank(self, place: _Place) -> Rank:
        priority = place.row.job.priority
        if self._parts.rank == "queues":
            kind = (0, place.size) if place.perceptible else (1, 0.0)
            return (priority, place.level, *kind, place.entered)
        row, size = place.row, place.size
        if row.attained >= self._parts.lock * (row.attained + size) > 0:
            return (priority, 0, size)
        if self._tenants:
            size += self._parts.fairness * self._tenants.ahead(row.job.tenant)
        if self._parts.tail:
            size = boosted(row.job.arrived, size, self._parts.tail, self._usual)
        return (priority, 1, size)

    def _size(self, row: Row) -> float:
        """What the continuous order ranks by, in seconds."""
        estimator = self._estimator
        per_round = row.survival.tokens(row.draft)
        emitted = row.emitted + row.certain * per_round
        law = estimator.law(row)
        if self._parts.rank == "gittins" and law.sigma:
            tokens = max(1.0, self._gittins.work(law, emitted, row.job.max_new))
        else:
            tokens = estimator.left(row, emitted)
        seconds = estimator.seconds(row, tokens, per_round)
        if self._short:
            held = row.job.prompt + emitted + tokens / 2
            seconds *= (held / self._held) ** (self._parts.volume * self._short / GRAIN)
        return seconds

    def _press(self, used: float) -> None:
        """Notice how short pages are."""
        if not self._parts.volume:
            return
        short = max(0.0, used - EASY) / (1 - EASY) * GRAIN
        if not self._short - 0.5 <= short <= self._short + 1.5:
            rows = [place.row.known for place in self._places.values()]
            self._held = max(1.0, sum(rows) / max(1, len(rows)))
            self._short = int(short)
            self._stale = len(self._ring)

    def _renew(self) -> None:
        for _ in range(min(RENEWED, self._stale)):
            place = self._ring.popleft()
            if not place.gone:
                self._ring.append(place)
                self._resize(place)
        self._stale = max(0, self._stale - RENEWED)
