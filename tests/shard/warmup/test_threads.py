"""Threads by what a Step feeds, against a stopwatch that goes by the threads, not by the clock."""

from __future__ import annotations

from math import inf

import pytest
import torch

from shard.engine import Engine, ready_without_costs
from shard.engine_parts import make_parts
from shard.warmup.threads import MANY_ROWS, StepThreads, ThreadRule, choose_rule, measure_threads
from shard.wire.protocol import AppendPages, NewRow, RowWork, Sampling, Step, StepResult
from tests.support import tiny


class Threads:
    """Stands in for torch's number of threads."""

    def __init__(self, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = count
        self.changes: list[int] = []
        monkeypatch.setattr(torch, "get_num_threads", lambda: self.count)
        monkeypatch.setattr(torch, "set_num_threads", self.set)

    def set(self, count: int) -> None:
        self.count = count
        self.changes.append(count)


class Stopwatch:
    """Takes the seconds that `table` has for rows and threads."""

    def __init__(self, table: dict[tuple[int, int], float], threads: Threads) -> None:
        self._table, self._threads = table, threads

    def execute(self, step: Step) -> StepResult:
        seconds = self._table.get((len(step.run), self._threads.count), 1.0)
        return StepResult(step.number, seconds, (), 0)

    def reset(self) -> None:
        pass


@pytest.mark.parametrize(
    ("one", "several", "wanted"),
    [
        ((1.0, 1.0), (4.0, 2.0), [1, 1, 2, 2, 2]),
        ((1.0, 0.97), (4.0, 2.0), [1, 1, 2, 2, 2]),
        ((1.0, 0.6), (4.0, 2.0), [2, 2, 2, 2, 2]),
        ((1.0, 1.2), (4.0, 4.1), [1, 1, 1, 1, 1]),
        ((1.0, 0.6), (4.0, 3.9), [1, 1, 1, 1, 1]),
        ((1.0, 9.0), (4.0, 3.0), [1, 1, 2, 2, 2]),
    ],
)
def test_more_threads_compute_only_what_gains_from_them(
    one: tuple[float, float],
    several: tuple[float, float],
    wanted: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seconds with one thread and with two, for one row and for eight."""
    threads = Threads(2, monkeypatch)
    table = {(1, n): one[n - 1] for n in (1, 2)} | {(MANY_ROWS, n): several[n - 1] for n in (1, 2)}
    rule = measure_threads(Stopwatch(table, threads), 64)
    assert [rule.threads(tokens) for tokens in (1, 2, 3, 8, 500)] == wanted


def test_the_rule_knows_all_cores() -> None:
    assert choose_rule(16, for_one=False, for_several=True).threads(300) == 16
    assert choose_rule(16, for_one=False, for_several=False) == ThreadRule(16, inf)


def test_threads_are_set_only_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(4, monkeypatch)
    step_threads = StepThreads(ThreadRule(4, 3))
    for tokens in (1, 1, 2, 9, 9, 300, 1):
        step_threads.apply(tokens, 0.0)
    assert threads.changes == [1, 4, 1]


def test_steps_use_one_thread_while_all_of_them_are_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(4, monkeypatch)
    step_threads = StepThreads(ThreadRule(4, 1))
    now = 0.0
    for seconds in (1.0, 20.0, 20.0, 1.0):
        step_threads.apply(8, now)
        step_threads.record(8, seconds, now)
        now += 0.1
    assert threads.changes == [1]


def test_an_engine_sets_them_by_the_tokens_of_each_step(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.save("llama", tmp_path_factory.mktemp("threads"))
    parts = make_parts(tiny.config(model), lambda text, percent: None)
    threads = Threads(1, monkeypatch)
    engine = Engine(parts, ready_without_costs(parts), ThreadRule(2, 4))
    new = NewRow(0, (1, 2, 3, 4, 5), 5, 3, True, Sampling())
    engine.execute(Step(1, (), (new,), (AppendPages(0, (1,)),), (RowWork(0, 5, 0),)))
    engine.execute(Step(2, (), (), (), (RowWork(0, 0, 0),)))
    engine.execute(Step(3, (0,), (), (), ()))
    assert threads.changes == [2, 1]
