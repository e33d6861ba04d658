"""Steps that an engine has started; they may still be running on the device.

It knows the order in which the Steps of one engine finish, and nothing of rows or tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from shard.wire.protocol import StepResult


class StepHandle(Protocol):
    """One started Step. The Steps of an engine finish in the order in which they were started."""

    def is_complete(self) -> bool:
        """Whether `result` returns without waiting."""

    def result(self) -> StepResult:
        """Wait for the Step and return its result. Any exception raised here ends the process."""


class StartedStep:
    """The `StepHandle` of every engine.

    `finish` is called once, after `previous` has finished, and may wait until `is_ready()`.
    """

    def __init__(
        self,
        finish: Callable[[], StepResult],
        is_ready: Callable[[], bool] = lambda: True,
        previous: StartedStep | None = None,
    ) -> None:
        self._finish, self._is_ready, self._previous = finish, is_ready, previous
        self._result: StepResult | None = None

    def is_complete(self) -> bool:
        """See `StepHandle`."""
        if self._result is not None:
            return True
        return (self._previous is None or self._previous.is_complete()) and self._is_ready()

    def result(self) -> StepResult:
        """See `StepHandle`."""
        if self._result is None:
            if self._previous is not None:
                self._previous.result()
            self._result, self._previous = self._finish(), None
        return self._result
