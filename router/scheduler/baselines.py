"""What LAPS-SD is measured against: arrival order, least attained service, predicted length."""

from __future__ import annotations

from collections.abc import Sequence

from router.scheduler.base import End, Outcome
from router.scheduler.length import Lengths
from router.scheduler.levels import Levels, Rank
from router.scheduler.row import Row


class Fcfs:
    """First come, first served; ties by id. Nobody starves: the oldest row is always first."""

    levels = 1
    perceptible = 0

    def __init__(self) -> None:
        self._rows: dict[tuple[float, int], Row] = {}

    def level(self, row: Row) -> int:
        return 1

    def arrive(self, row: Row, now: float) -> None:
        self._rows[row.job.arrived, row.job.id] = row

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        pass

    def leave(self, row: Row, end: End | None) -> None:
        del self._rows[row.job.arrived, row.job.id]

    def order(self, now: float) -> Sequence[Row]:
        return [self._rows[key] for key in sorted(self._rows)]


class Las:
    """Least attained service in the same levels as LAPS-SD, without any prediction."""

    perceptible = 0

    def __init__(self, levels: Levels) -> None:
        self._levels = levels

    @property
    def levels(self) -> int:
        return self._levels.count

    def level(self, row: Row) -> int:
        return self._levels.level(row)

    def arrive(self, row: Row, now: float) -> None:
        self._levels.enter(row, 1, (0, 0.0), now)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        self._levels.serve(row, outcome, now)
        self._levels.demote(row)

    def leave(self, row: Row, end: End | None) -> None:
        self._levels.leave(row)

    def order(self, now: float) -> Sequence[Row]:
        return self._levels.order(now)


class LengthSjf:
    """Shortest predicted answer first, whatever its acceptance; a started row is not displaced."""

    levels = 1
    perceptible = 0

    def __init__(self, levels: Levels) -> None:
        """`levels`: one level, for its ageing."""
        self._levels = levels
        self._lengths = Lengths()
        self._waiting: dict[int, Row] = {}

    def level(self, row: Row) -> int:
        return self._levels.level(row)

    def arrive(self, row: Row, now: float) -> None:
        self._waiting[row.job.id] = row
        self._levels.enter(row, 1, self._rank(row), now)

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        self._levels.serve(row, outcome, now)

    def leave(self, row: Row, end: End | None) -> None:
        self._levels.leave(row)
        self._waiting.pop(row.job.id, None)
        if end in (End.EOS, End.LENGTH):
            self._lengths.observe(row.emitted)

    def order(self, now: float) -> Sequence[Row]:
        for row in [row for row in self._waiting.values() if row.started]:
            del self._waiting[row.job.id]
            self._levels.move(row, 1, self._rank(row))
        return self._levels.order(now)

    def _rank(self, row: Row) -> Rank:
        return (0, 0.0) if row.started else (1, self._lengths.total(row.job, row.emitted))
