"""Steps that an engine has started: they may still be running where the models run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shard.wire.protocol import Item, StepResult

if TYPE_CHECKING:
    from shard.batch.rows import Row


class Flight(Protocol):
    """One Step on its way. Flights of one engine land in the order of their starts."""

    def landed(self) -> bool:
        """Whether `result` returns at once."""

    def result(self) -> StepResult:
        """What the Step did; waits for it. Whatever this raises ends the process."""


@dataclass(frozen=True, slots=True)
class Landed:
    """A Step that was done when its start returned."""

    done: StepResult

    def landed(self) -> bool:
        """See `Flight`."""
        return True

    def result(self) -> StepResult:
        """See `Flight`."""
        return self.done


class Pending(Protocol):
    """A round that was started."""

    def landed(self) -> bool:
        """Whether `items` returns at once."""

    def items(self) -> tuple[Item, ...]:
        """Move the host's rows on and tell what was done. To be called once, in order."""


@dataclass(frozen=True, slots=True)
class Done:
    """A round of the host's."""

    told: tuple[Item, ...]

    def landed(self) -> bool:
        """See `Pending`."""
        return True

    def items(self) -> tuple[Item, ...]:
        """See `Pending`."""
        return self.told


@dataclass(slots=True)
class Started:
    """The flight of a round that may still be running. The oldest lands first, by `land`."""

    land: Callable[[], None]
    number: int
    rows: Sequence[Row]
    """The rows that the Step runs."""
    pending: Pending
    began: float
    done: StepResult | None = None

    def landed(self) -> bool:
        """See `Flight`."""
        return self.done is not None or self.pending.landed()

    def result(self) -> StepResult:
        """See `Flight`."""
        while self.done is None:
            self.land()
        return self.done
