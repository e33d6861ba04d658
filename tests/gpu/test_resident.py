"""Rounds that stay on the device, against the host's rounds on the same device."""

from __future__ import annotations

from collections import deque
from itertools import pairwise
from statistics import median, quantiles
from typing import Any

import pytest
import torch

from benchmark.engine.in_process import InProcessLoop, device_capacity
from router.scheduler.planner import Planner
from router.scheduler.policies.baselines import Fcfs
from shard.engine import Engine
from shard.rounds.round_graphs import RoundGraphs
from shard.step_handle import StepHandle
from shard.wire.protocol import AppendPages, NewRow, PageCopy, RowWork, Step
from tests.support.device_rounds import LateEngine, run_both
from tests.support.driver import DEVICE_PLANS, DrivePlan, RowSpec, device_specs, drive
from tests.support.gpu import DRAFT, TARGET, Record, engine
from tests.support.in_process import device_requests
from tests.support.pairs import Model, noisy_copy, with_eos
from tests.support.samplings import DEVICE_SAMPLINGS, EOS_IDS, GREEDY
from tests.support.tiny import PAGED

pytestmark = pytest.mark.gpu
STEPS = 200


def recorded(engine: Engine) -> tuple[Any, ...]:
    """The shapes of whole rounds that are replayed."""
    assert engine._device_rounds is not None
    run = engine._device_rounds._run
    assert isinstance(run, RoundGraphs)
    return run.recorded


@pytest.mark.parametrize("plan", DEVICE_PLANS, ids=str)
@pytest.mark.parametrize("name", DEVICE_SAMPLINGS)
def test_tokens_in_float32_are_those_of_the_hosts_rounds(
    model: Model, name: str, plan: DrivePlan
) -> None:
    target, draft = with_eos(model("llama"), *EOS_IDS), noisy_copy(model("llama"))
    hosted, found = run_both(
        engine(target, draft),
        engine(target, draft, resident=True),
        device_specs([DEVICE_SAMPLINGS[name]] * 8),
        plan,
    )
    assert [item.tokens for item in found] == [item.tokens for item in hosted]
    assert [item.accepted for item in found] == [item.accepted for item in hosted]
    assert recorded(engine(target, draft, resident=True))


@pytest.mark.parametrize("name", PAGED)
def test_every_kind_of_attention_gives_the_tokens_of_the_hosts_rounds(
    model: Model, name: str
) -> None:
    wanted = device_specs([DEVICE_SAMPLINGS["top-p"], GREEDY] * 4)
    plain = drive(engine(model(name), None), wanted, DrivePlan(batch=1))
    served = engine(model(name), model("llama", 1), resident=True)
    for plan in DEVICE_PLANS:
        assert drive(served, wanted, plan) == plain
    assert recorded(served)


def test_results_read_one_step_late_change_no_token(model: Model) -> None:
    target = with_eos(model("llama"), *EOS_IDS)
    served = engine(target, model("llama"), resident=True)
    wanted = device_requests()
    plain = drive(
        engine(target, None),
        [RowSpec(call.prompt, call.max_new, call.sampling) for call in wanted],
        DrivePlan(batch=1),
    )
    for late in (served, LateEngine(served)):
        served.reset()
        loop, again = (
            InProcessLoop(late, Planner(device_capacity(served.ready()), Fcfs())),
            device_requests(),
        )
        for call in again:
            loop.submit(call)
        loop.run()
        assert [call.emitted for call in again] == plain


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("rows", [1, 8])
def test_how_long_the_device_idles_between_steps(depth: int, rows: int, record: Record) -> None:
    """Events around every start: what lies between two Steps is time without work."""
    served = engine(TARGET, DRAFT, "bfloat16", resident=True)
    edges: list[tuple[Any, Any]] = []
    for _ in range(2):  # the first time records
        edges = _decode(served, depth, rows)
    torch.cuda.synchronize()
    idle = [one.elapsed_time(two) for (_, one), (two, _) in pairwise(edges)]
    busy = [start.elapsed_time(stop) for start, stop in edges]
    name = f"at depth {depth}, {rows} rows"
    record(f"ms between Steps {name}, median", median(idle))
    record(f"ms between Steps {name}, p99", quantiles(idle, n=100)[-1])
    record(f"ms of a Step of 3 drafts {name}, median", median(busy))


def _decode(served: Engine, depth: int, rows: int) -> list[tuple[Any, Any]]:
    """Run Steps with `depth` of them in flight; the events before and after each."""
    served.reset()
    each = 1 + (2 + 4 * STEPS) // 16
    new = tuple(NewRow(id, (5, 6), 2, 4 * STEPS, True, GREEDY) for id in range(rows))
    grow = tuple(
        AppendPages(id, tuple(range(1 + id * each, 1 + (id + 1) * each))) for id in range(rows)
    )
    served.execute(Step(1, (), new, grow, tuple(RowWork(id, 2, 0) for id in range(rows))))
    step = Step(2, (), (), (), tuple(RowWork(id, 0, 3) for id in range(rows)))
    flights: deque[StepHandle] = deque()
    edges = []
    for _ in range(STEPS // 2):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        flights.append(served.start(step))
        stop.record()
        edges.append((start, stop))
        while len(flights) >= depth:
            flights.popleft().result()
    while flights:
        flights.popleft().result()
    return edges


def test_pages_come_back_bit_for_bit_though_their_place_is_taken_at_once(model: Model) -> None:
    """The host pool is pinned and copies on its own stream while the next Step works."""
    served = engine(model("llama"), model("llama", 1), resident=True, max_swap_tokens=1024)
    served.reset()
    host = served._host_pool
    assert host._stream is not None
    assert all(pool.is_pinned() for pool in host._host_pools)
    new = NewRow(1, (5,) * 40, 40, 4, True, GREEDY)
    served.execute(Step(1, (), (new,), (AppendPages(1, (4, 2, 3)),), (RowWork(1, 40, 0),)))
    before = [pool[[4, 2, 3]].clone().view(torch.int32) for pool in host._pools]
    taking = NewRow(2, (7,) * 40, 40, 4, True, GREEDY)
    flights = [
        served.start(Step(2, (1,), (), (), (), swap_out=PageCopy((4, 2, 3), (9, 1, 2)))),
        served.start(Step(3, (), (taking,), (AppendPages(2, (4, 2, 3)),), (RowWork(2, 40, 0),))),
        served.start(Step(4, (2,), (), (), (), swap_in=PageCopy((9, 1, 2), (5, 1, 6)))),
    ]
    for flight in flights:
        flight.result()
    after = [pool[[5, 1, 6]].view(torch.int32) for pool in host._pools]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
