"""Engines whose rounds stay on the device, here the CPU, and Steps that complete late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pytest

from shard.engine import Engine
from shard.rounds.host_round import RowTask
from shard.step_handle import StepHandle
from shard.wire.protocol import RowResult, Step, StepResult
from tests.support import driver, tiny


@cache
def device_engine(target: str, draft: str | None, **changes: Any) -> Engine:
    """An engine that runs rounds on the device if they are supported there; cached."""
    return tiny.unmeasured_engine(tiny.config(target, draft, resident=True, **changes))


class RoundWatch:
    """Records for each Step with rows why its round ran on the host, or "resident"."""

    def __init__(self, engine: Engine, patch: pytest.MonkeyPatch) -> None:
        self.kinds: list[str] = []
        rounds = engine._device_rounds
        assert rounds is not None
        refusal, launch = rounds.why_not_on_device, rounds.launch

        def refused(works: Sequence[RowTask]) -> str | None:
            found = refusal(works)
            self.kinds.append(found or "resident")
            return found

        patch.setattr(rounds, "why_not_on_device", refused)
        patch.setattr(rounds, "launch", launch)

    @property
    def decoding(self) -> set[str]:
        """The kinds of all rounds except prefills."""
        return {*self.kinds} - {"a prefill"}


@dataclass(frozen=True)
class LateEngine:
    """An engine whose Steps complete only when their results are read."""

    engine: Engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def start(self, step: Step) -> StepHandle:
        return NeverReadyHandle(self.engine.start(step))


@dataclass(frozen=True)
class NeverReadyHandle:
    """The handle of a Step that never reports completion."""

    handle: StepHandle

    def is_complete(self) -> bool:
        return False

    def result(self) -> StepResult:
        return self.handle.result()


def run_both(
    one: Engine, other: Engine, asks: Sequence[driver.RowSpec], plan: driver.DrivePlan
) -> list[list[RowResult]]:
    """Return the results of two engines for the same rows."""
    results = []
    for engine in (one, other):
        engine.reset()
        results.append(driver.run_steps(asks, plan, partial(_results, engine)))
    return results


def _results(engine: Engine, step: Step) -> Sequence[RowResult]:
    return engine.execute(step).items
