"""A Step that an engine has started: it may still be running where the models run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shard.protocol import StepResult


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
