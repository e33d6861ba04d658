"""The seam between what decides the order of service and the planner, which does all the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from router.scheduler.api import End, Outcome
from router.scheduler.row import Row


class Policy(Protocol):
    """An order over the live rows. It owns no row and no page, and reads no clock.

    Contract: `order` names every live row once, and its first row is served whatever that takes,
    so a policy starves nobody if every row comes first in the end.
    """

    @property
    def levels(self) -> int:
        """Number of levels."""

    @property
    def perceptible(self) -> int:
        """Live rows whose acceptance rate is stable."""

    def perceives(self, row: Row) -> bool:
        """Whether a live row is one of those."""

    def level(self, row: Row) -> int:
        """Level of a live row: 1 is the highest, 0 the rows that have waited too long."""

    def arrive(self, row: Row, now: float) -> None:
        """Take a row that holds nothing yet."""

    def observe(self, row: Row, outcome: Outcome, now: float) -> None:
        """A Step served `row`, which already counts `outcome` and lives on."""

    def leave(self, row: Row, end: End | None) -> None:
        """Forget a row that ended, or was cancelled (None)."""

    def order(self, now: float, used: float) -> Sequence[Row]:
        """Every live row, highest rank first; to be read before any other call, and not changed.

        `used`: share of the pages that live rows hold.
        """
