"""Steps that an engine has started: they may still be running where the models run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from shard.wire.protocol import RowResult, StepResult

if TYPE_CHECKING:
    from shard.batch.rows import CachedRow


class StepHandle(Protocol):
    """One Step on its way. Flights of one engine land in the order of their starts."""

    def is_complete(self) -> bool:
        """Whether `result` returns at once."""

    def result(self) -> StepResult:
        """What the Step did; waits for it. Whatever this raises ends the process."""


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """A Step that was done when its start returned."""

    step_result: StepResult

    def is_complete(self) -> bool:
        """See `Flight`."""
        return True

    def result(self) -> StepResult:
        """See `Flight`."""
        return self.step_result


class PendingRound(Protocol):
    """A round that was started."""

    def is_complete(self) -> bool:
        """Whether `items` returns at once."""

    def finish(self) -> tuple[RowResult, ...]:
        """Move the host's rows on and tell what was done. To be called once, in order."""


@dataclass(frozen=True, slots=True)
class CompletedRound:
    """A round of the host's."""

    row_results: tuple[RowResult, ...]

    def is_complete(self) -> bool:
        """See `PendingRound`."""
        return True

    def finish(self) -> tuple[RowResult, ...]:
        """See `PendingRound`."""
        return self.row_results


@dataclass(slots=True)
class RunningStep:
    """The flight of a round that may still be running. The oldest lands first, by `land`."""

    complete_oldest: Callable[[], None]
    number: int
    rows: Sequence[CachedRow]
    """The rows that the Step runs."""
    pending_round: PendingRound
    started_at: float
    step_result: StepResult | None = None

    def is_complete(self) -> bool:
        """See `Flight`."""
        return self.step_result is not None or self.pending_round.is_complete()

    def result(self) -> StepResult:
        """See `Flight`."""
        while self.step_result is None:
            self.complete_oldest()
        return self.step_result
