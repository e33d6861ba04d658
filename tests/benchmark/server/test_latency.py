"""The live benchmark: what is asked, what the log of Steps means, and what is told of both."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmark.server import latency as live
from benchmark.server import replay
from benchmark.server import server as live_server
from benchmark.server.latency import LiveRun
from benchmark.server.replay import StepLogData
from benchmark.server.server import ClientRequest, ClientResponse, ServerFailed
from benchmark.simulation import workloads
from benchmark.simulation.step_costs import LLAMA_7B, StepWork
from router.errors import GenerationFailed
from tests.support.serving import DRAFTING_SERVER_INFO, HELLO, ScriptedDispatcher, serving


async def test_each_request_is_sent_when_it_is_due_with_its_hint_and_a_salt_of_its_own() -> None:
    asks = [ClientRequest("first", 0.02, 7), ClientRequest("second", 0.0, 9)]
    async with serving(server_info=DRAFTING_SERVER_INFO) as server:
        answers = await asyncio.to_thread(live_server.send_all, server.base_url, asks)
        _, *sent = [request for request, _ in server.dispatcher.opened]
    assert [request.inputs for request in sent] == ["second", "first"]
    assert [request.expected_new_tokens for request in sent] == [9, 7]
    assert len({request.cache_salt for request in sent}) == 2
    assert [answer.ids for answer in answers] == [tuple(token.id for token in HELLO)] * 2
    assert all(answer.latency >= 0 for answer in answers)


async def test_an_answer_that_is_none_ends_the_run() -> None:
    async with serving(ScriptedDispatcher(GenerationFailed("no"))) as server:
        with pytest.raises(ServerFailed, match="no"):
            await asyncio.to_thread(
                live_server.send_all, server.base_url, [ClientRequest("a", 0.0)]
            )


def test_a_log_becomes_steps_with_their_work_and_the_busy_time(tmp_path: Path) -> None:
    capacity = LLAMA_7B.capacity(100, 2, depth=2)
    steps = [
        # id, known, prefilled, drafted, accepted, emitted
        (1.0, 1.5, 0.25, [[1, 8, 8, 0, 0, 1]]),
        (1.25, 1.75, 0.125, [[1, 9, 0, 0, 0, 1], [2, 5, 5, 0, 0, 1]]),
        (4.0, 4.5, 0.5, [[1, 10, 0, 3, 2, 3], [2, 6, 0, 2, 0, 1]]),
        (4.0, 5.0, 0.25, [[1, 13, 0, 0, 0, 1]]),
    ]
    names = ("sent", "landed", "seconds", "rows")
    lines: list[dict[str, Any]] = [{"capacity": asdict(capacity)}]
    lines += [dict(zip(names, step, strict=True)) for step in steps]
    path = tmp_path / "log"
    path.write_text("\n".join(map(json.dumps, lines)))
    log = replay.read(path)
    assert log.capacity == capacity
    assert [work for work, _ in log.samples] == [
        StepWork(prefill=8, prefilling=1),
        StepWork(rows=1, context=9, prefill=5, prefilling=1),
        StepWork(rows=2, drafts=5, longest_draft=3, context=16),
        StepWork(rows=1, context=13),
    ]
    assert [seconds for _, seconds in log.samples] == [0.25, 0.125, 0.5, 0.25]
    assert log.busy == 0.5 + 0.25 + 0.5 + 0.5


def _log(busy: float) -> StepLogData:
    """Steps of a known cost, which were in flight for `busy` seconds."""
    works = [StepWork(r, r * n, n, r * c) for r in (1, 2) for n in (0, 2, 5) for c in (32, 256)]
    works += [StepWork(prefill=c, prefilling=1) for c in (16, 64)]
    samples = tuple((work, LLAMA_7B.seconds(work)) for work in works)
    return StepLogData(LLAMA_7B.capacity(500, 2, depth=2), samples, busy)


def test_fitted_costs_take_as_long_as_the_server_was_busy() -> None:
    log = _log(2.0)
    costs = replay.fit(log)
    assert sum(costs.seconds(work) for work, _ in log.samples) == pytest.approx(2.0)


def test_the_report_has_its_figures_and_a_row_for_each_policy_and_request() -> None:
    traces = workloads.traces(workloads.SHAPES["chat"], 6, 1)
    requests = workloads.burst(traces, None)
    log = _log(sum(seconds for _, seconds in _log(0).samples))
    simulated = {policy: replay.replay(policy, log, requests) for policy in live.POLICIES}
    runs = [
        LiveRun(
            policy, [ClientResponse(3, (1,), 2 * latency, {}) for latency in result.latencies], log
        )
        for policy, result in simulated.items()
    ]
    found = live.report(runs, requests, True)
    assert set(found["figures"]) == {
        "live.laps_over_fcfs",
        "live.simulated_over_live",
        "live.tokens_identical",
    }
    assert found["figures"]["live.simulated_over_live"] == pytest.approx(0.5)
    ratio = simulated["laps-sd"].mean / simulated["fcfs"].mean
    assert found["figures"]["live.laps_over_fcfs"] == pytest.approx(ratio)
    assert live.report(runs, requests, False)["figures"]["live.tokens_identical"] == 0
    rows = [(row["policy"], row["length"]) for row in found["requests"]]
    assert rows == [(policy, trace.length) for policy in live.POLICIES for trace in traces]
    assert all(row["live"] == pytest.approx(2 * row["simulated"]) for row in found["requests"])
