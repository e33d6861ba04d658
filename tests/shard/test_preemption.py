"""Rows that wait, move to the host and back, are dropped, or start on another's pages: same tokens.

The scheduler is the shipped planner under an order that changes at random, so preemption strikes
anywhere, with two Steps in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import pytest
import torch

from benchmark.engine.in_process import InProcessLoop, InProcessRequest, device_capacity
from router.scheduler.api import Scheduler
from router.scheduler.planner import Planner
from shard.echo.echo_engine import EchoEngine
from shard.echo.replies import full_reply
from shard.engine import Engine
from shard.step_handle import StartedStep
from shard.wire.protocol import AppendPages, NewRow, PageCopy, RowResult, RowWork, Sampling, Step
from tests.support import tiny
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.in_process import RandomPolicy
from tests.support.nightly import nightly, thinned
from tests.support.ranks import ECHO
from tests.support.samplings import SAMPLED
from tests.support.tiny import VOCABULARY, swapping_engine

Model = Callable[..., str]
GREEDY = Sampling()


def calls(sampling: Sampling, count: int = 8, common: int = 0) -> list[InProcessRequest]:
    """Prompts of 1 to 40 tokens after `common` equal ones, each with a seed of its own."""
    random = Random(3)
    head = tuple(random.randrange(VOCABULARY) for _ in range(common))
    made = []
    for id in range(count):
        size = random.randint(1, 40 if not common else 8)
        prompt = head + tuple(random.randrange(VOCABULARY) for _ in range(size))
        seeded = Sampling(id, sampling.temperature, sampling.top_k, sampling.top_p)
        made.append(InProcessRequest(id, prompt, random.randint(14, 28), seeded))
    return made


class RecordingEngine:
    """An engine, and all that it answers."""

    def __init__(self, engine: Engine) -> None:
        self.ready = engine.ready
        self.items: list[RowResult] = []
        self._engine = engine

    def start(self, step: Step) -> StartedStep:
        result = self._engine.execute(step)
        self.items.extend(result.items)
        return StartedStep(lambda: result)


def plain(engine: Engine, wanted: Sequence[InProcessRequest]) -> list[list[int]]:
    asks = [RowSpec(call.prompt, call.max_new, call.sampling) for call in wanted]
    return drive(engine, asks, DrivePlan(batch=1))


def planner(
    engine: Engine | EchoEngine | RecordingEngine, seed: int, change: float, **changes: object
) -> Planner:
    return Planner(device_capacity(engine.ready(), **changes), RandomPolicy(Random(seed), change))


def finish(
    engine: Engine | EchoEngine, scheduler: Scheduler, wanted: Sequence[InProcessRequest]
) -> None:
    engine.reset()
    loop = InProcessLoop(engine, scheduler)
    for call in wanted:
        loop.submit(call)
    loop.run()


@pytest.mark.parametrize("drafted", [True, False], ids=["drafted", "not drafted"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("rung", ["keep", "swap", "recompute"])
def test_tokens_do_not_depend_on_preemption(
    model: Model, rung: str, sampling: Sampling, drafted: bool
) -> None:
    engine = swapping_engine(model("llama"), model("llama", 1) if drafted else None)
    wanted = calls(sampling)
    room = {"max_rows": 2} if rung == "keep" else {"pages": 12, "preemption": rung}
    scheduler = planner(engine, 5, 0.3, prefill_tokens=24, **room)
    expected = plain(engine, wanted)
    finish(engine, scheduler, wanted)
    assert [call.emitted for call in wanted] == expected
    assert scheduler.status().preemptions[rung] > 3


@pytest.mark.parametrize(
    ("name", "rung"),
    thinned(
        [("falcon-alibi",), ("gpt-neo",), ("deepseek-v3",), ("llama4",), ("lfm2",)],
        [("swap",), ("recompute",)],
        2,
    ),
)
def test_tokens_of_adapted_attention_do_not_depend_on_preemption(
    model: Model, name: str, rung: str
) -> None:
    engine = swapping_engine(model(name), model("llama", 1))
    wanted = calls(GREEDY, 6)
    scheduler = planner(engine, 5, 0.3, prefill_tokens=24, pages=12, preemption=rung)
    expected = plain(engine, wanted)
    finish(engine, scheduler, wanted)
    assert [call.emitted for call in wanted] == expected
    assert scheduler.status().preemptions[rung] > 1


@pytest.mark.parametrize(
    ("name", "drafted"),
    thinned([("gemma3",), ("gpt2",), ("bloom",), ("lfm2",)], [(True,), (False,)], 2),
)
def test_tokens_do_not_depend_on_shared_prefixes(model: Model, name: str, drafted: bool) -> None:
    engine = swapping_engine(model(name), model("llama", 1) if drafted else None)
    wanted = calls(SAMPLED, common=48)
    expected = plain(engine, wanted)
    scheduler = planner(engine, 5, 0.1)
    finish(engine, scheduler, wanted)
    assert [call.emitted for call in wanted] == expected
    assert sum(call.prefilled for call in wanted) <= 48 + sum(len(c.prompt) - 48 for c in wanted)


@pytest.mark.parametrize("rung", ["swap", "recompute"])
def test_shared_rows_are_preempted_exactly(model: Model, rung: str) -> None:
    engine = swapping_engine(model("llama"), model("llama", 1))
    wanted = calls(SAMPLED, common=40)
    expected = plain(engine, wanted)
    scheduler = planner(engine, 9, 0.3, pages=14, prefill_tokens=32, preemption=rung)
    finish(engine, scheduler, wanted)
    assert [call.emitted for call in wanted] == expected
    assert scheduler.status().preemptions[rung] > 0


def test_a_second_turn_starts_on_the_pages_of_the_first_answer(model: Model) -> None:
    engine = swapping_engine(model("llama"), model("llama", 1))
    [first] = calls(GREEDY, 1, common=30)
    loop = InProcessLoop(engine, planner(engine, 1, 0.0))
    engine.reset()
    loop.submit(first)
    loop.run()
    known = (*first.prompt, *first.emitted)
    second = InProcessRequest(1, (*known, 7, 8), 20)
    [expected] = plain(engine, [second])
    loop.submit(second)
    loop.run()
    assert second.emitted == expected
    assert second.prefilled <= 2 * 16 + 2


@pytest.mark.parametrize("speculate", [(0, 5), (5, 0), (0, 0)], ids=str)
def test_answers_of_rows_that_never_draft_are_shared_with_those_that_do(
    model: Model, speculate: tuple[int, int]
) -> None:
    served, alone = swapping_engine(model("llama"), model("llama")), tiny.engine(model("llama"))
    engine = RecordingEngine(served)
    before, after = speculate
    [first] = calls(SAMPLED, 1, common=30)
    first = replace(first, speculate=before, max_new=40)
    loop = InProcessLoop(engine, planner(engine, 1, 0.0))
    served.reset()
    loop.submit(first)
    loop.run()
    known = (*first.prompt, *first.emitted)
    engine.items.clear()
    later = [InProcessRequest(id, (*known, id), 24, first.sampling, after) for id in (1, 2, 3)]
    for call in later:
        loop.submit(call)
    loop.run()
    assert [call.emitted for call in later] == plain(alone, later)
    assert all(call.prefilled <= 16 + 2 for call in later)
    drafted = [item for item in engine.items if item.drafted]
    assert bool(drafted) is bool(after)
    assert all(item.accepted == item.drafted or item.end for item in drafted), "the draft is a twin"


def test_a_prompt_that_ends_with_a_shared_page_feeds_its_last_token_alone(model: Model) -> None:
    engine = swapping_engine(model("llama"), model("llama", 1))
    prompt = tuple(Random(2).randrange(VOCABULARY) for _ in range(48))
    wanted = [InProcessRequest(0, prompt, 20), InProcessRequest(1, prompt, 20)]
    expected = plain(engine, wanted)
    engine.reset()
    loop = InProcessLoop(engine, planner(engine, 1, 0.0))
    for call in wanted:
        loop.submit(call)
        loop.run()
    assert [call.emitted for call in wanted] == expected
    assert wanted[1].prefilled == 1


@pytest.mark.parametrize("preemption", ["auto", nightly("swap"), nightly("recompute")])
def test_a_pool_of_half_the_demand_serves_64_requests_exactly(
    model: Model, preemption: str, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = swapping_engine(model("llama"), model("llama", 1))
    wanted = calls(SAMPLED, 64)
    expected = plain(engine, wanted)
    demand = sum(-(-(len(call.prompt) + call.max_new) // 16) for call in wanted)
    room = {"pages": demand // 2, "preemption": preemption, "prefill_tokens": 256}
    scheduler = planner(engine, 5, 0.2, max_rows=64, **room)
    finish(engine, scheduler, wanted)
    counts = scheduler.status().preemptions
    with capsys.disabled():
        print(f"\n64 requests, {demand // 2} of {demand} pages, {preemption}: {counts}")
    assert scheduler.status().prefetched == counts["swap"]
    assert [call.emitted for call in wanted] == expected
    assert scheduler.status().free_pages == demand // 2


@pytest.mark.parametrize("seed", range(10))
def test_the_strict_echo_accepts_every_move(seed: int) -> None:
    engine = EchoEngine(replace(ECHO, max_swap_tokens=256))
    wanted = calls(GREEDY, 24, common=40 * (seed % 2))
    changes = {"pages": 16, "prefill_tokens": 32, "preemption": ("swap", "auto")[seed // 2 % 2]}
    finish(engine, planner(engine, seed, 0.3, **changes), wanted)
    for call in wanted:
        tokens, end = full_reply(call.prompt, call.sampling.seed, call.max_new, ignore_eos=True)
        assert (tuple(call.emitted), call.end) == (tokens, end)


def test_swapped_pages_come_back_bit_for_bit(model: Model) -> None:
    engine = swapping_engine(model("llama"), model("llama", 1))
    engine.reset()
    new = NewRow(1, (5,) * 40, 40, 4, True, Sampling())
    engine.execute(Step(1, (), (new,), (AppendPages(1, (4, 2, 3)),), (RowWork(1, 40, 0),)))
    pools = [pool for pool in engine._host_pool._pools]
    before = [pool[[4, 2, 3]].clone().view(torch.int32) for pool in pools]
    engine.execute(Step(2, (1,), (), (), (), swap_out=PageCopy((4, 2, 3), (9, 1, 2))))
    for pool in pools:
        pool[[1, 2, 3, 4, 5]] = 0
    engine.execute(Step(3, (), (), (), (), swap_in=PageCopy((9, 1, 2), (5, 1, 4))))
    after = [pool[[5, 1, 4]].view(torch.int32) for pool in pools]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
