"""The seam between what decides the order of service and the planner, which does all the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from router.scheduler.api import Outcome, RowEnded
from router.scheduler.row import Row


class Policy(Protocol):
    """An order over the live rows. It owns no row and no page, and reads no clock.

    Contract: `order` names every live row once, and its first row is served whatever that takes,
    so a policy starves nobody if every row comes first in the end.
    """

    @property
    def level_count(self) -> int:
        """Number of levels."""

    @property
    def perceptible_count(self) -> int:
        """Live rows whose acceptance rate is stable."""

    def is_perceptible(self, row: Row) -> bool:
        """Whether a live row is one of those."""

    def level(self, row: Row) -> int:
        """Level of a live row: 1 is the highest, 0 the rows that have waited too long."""

    def add(self, row: Row, now: float) -> None:
        """Take a row that holds nothing yet."""

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        """A Step served `row`, which already counts `outcome` and lives on."""

    def remove(self, row: Row, end: RowEnded | None) -> None:
        """Forget a row that ended, or was cancelled (None)."""

    def order(self, now: float, page_usage: float) -> Sequence[Row]:
        """Every live row, highest rank first; to be read before any other call, and not changed.

        `used`: share of the pages that live rows hold.
        """
