"""The interface between what decides the order of service and the planner, which does the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from router.scheduler.api import Outcome, RowEnded
from router.scheduler.row import Row


class Policy(Protocol):
    """An order over the live rows. It owns no row and no page, and reads no clock.

    Contract: `order` contains every live row exactly once, and its first row is served whatever
    that takes. So a policy starves no request if every row eventually becomes the first.
    """

    @property
    def level_count(self) -> int:
        """Number of levels."""

    @property
    def perceptible_count(self) -> int:
        """Number of live rows whose acceptance rate is stable."""

    def is_perceptible(self, row: Row) -> bool:
        """Return whether the acceptance rate of a live row is stable."""

    def level(self, row: Row) -> int:
        """Return the level of a live row: 1 is the highest, 0 is for rows that waited too long."""

    def add(self, row: Row, now: float) -> None:
        """Add a row that holds no KV yet. `now`: monotonic seconds."""

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        """A Step served `row`, which already counts `outcome` and has not ended."""

    def remove(self, row: Row, end: RowEnded | None) -> None:
        """Remove a row that ended, or was cancelled (None)."""

    def order(self, now: float) -> Sequence[Row]:
        """Return every live row, highest rank first.

        The caller must not change the result, and must read it before any other call.
        """
