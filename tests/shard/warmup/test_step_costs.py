"""Warm-up against a stopwatch that goes by the work, not by the clock."""

from __future__ import annotations

import pytest

from shard.attention.kv_cache import PAGE_SIZE
from shard.warmup import step_costs
from shard.wire.protocol import MeasuredStep, Step, StepResult


class Stopwatch:
    """Takes 10 ms, 1 ms a row and 2 ms a draft; checks that every row has room for its tokens."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale
        self.room: dict[int, int] = {}
        self.longest: dict[int, int] = {}
        self.steps = 0

    def execute(self, step: Step) -> StepResult:
        for id in step.release:
            del self.room[id], self.longest[id]
        for new in step.new:
            assert new.id not in self.room
            self.longest[new.id] = new.prompt
        for grow in step.grow:
            self.room[grow.id] = len(grow.pages) * PAGE_SIZE
        for run in step.run:
            self.longest[run.id] += run.draft + 1
            assert self.longest[run.id] <= self.room[run.id]
        drafts = max((run.draft for run in step.run), default=0)
        self.steps += 1
        seconds = 0.010 + 0.001 * len(step.run) + 0.002 * drafts
        return StepResult(step.number, self.scale * seconds, (), 0)

    def reset(self) -> None:
        self.room.clear()


def measure(
    limits: step_costs.WarmupLimits, speculate: int = 5, scale: float = 1.0
) -> step_costs.MeasuredStepCosts:
    return step_costs.measure_step_costs(Stopwatch(scale), limits, speculate, speculate > 0, float)


def test_the_table_has_every_size_and_the_papers_two_figures_follow() -> None:
    found = measure(step_costs.WarmupLimits(rows=20, length=128, pages=200))
    assert found.verify_seconds == pytest.approx(0.011)
    assert found.draft_token_seconds == pytest.approx(0.002)
    sizes = [(cost.rows, cost.draft) for cost in found.table]
    assert sizes == [(rows, draft) for rows in (1, 4, 16, 20) for draft in (0, 1, 5)]
    assert found.table[-1].seconds == pytest.approx(0.010 + 0.020 + 0.010)


def test_without_a_drafter_only_plain_steps_are_timed() -> None:
    found = measure(step_costs.WarmupLimits(4, 128, 64), speculate=0)
    assert [(cost.rows, cost.draft) for cost in found.table] == [(1, 0), (4, 0)]
    assert (found.draft_token_seconds, found.catch_up_seconds) == (0.0, 0.0)


def test_a_slow_machine_starts_with_fewer_figures() -> None:
    found = measure(step_costs.WarmupLimits(64, 128, 500), scale=20.0)
    sizes = [(cost.rows, cost.draft) for cost in found.table]
    assert sizes == [(1, 0), (1, 1), (1, 5), (4, 0)]


def test_ranks_stop_after_the_same_step() -> None:
    def figures(scale: float) -> tuple[MeasuredStep, ...]:
        watch = Stopwatch(scale)
        return step_costs.measure_step_costs(
            watch, step_costs.WarmupLimits(64, 128, 500), 5, True, lambda _: 0.05
        ).table

    assert figures(1.0) == figures(100.0)


@pytest.mark.parametrize(("length", "pages"), [(10, 1), (16, 1), (40, 3), (128, 7)])
@pytest.mark.parametrize("speculate", [0, 1, 64])
def test_warm_up_keeps_to_a_small_pool_and_a_short_context(
    length: int, pages: int, speculate: int
) -> None:
    found = measure(step_costs.WarmupLimits(8, length, pages), speculate)
    assert found.table[0].draft == 0
    assert {cost.draft > 0 for cost in found.table} == ({False, True} if speculate else {False})
