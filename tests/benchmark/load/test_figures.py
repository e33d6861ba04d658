"""What the figures of overload, starvation and soak are computed from."""

from __future__ import annotations

import asyncio
import os
from math import inf
from random import Random

import pytest

from benchmark.faults.restarts import MARK, marked_processes
from benchmark.load import overload, soak, starvation, tenants
from benchmark.load.attackers import send_and_drain
from benchmark.load.process_usage import ProcessUsage, memory_slope, usage
from benchmark.load.requests import (
    TimedResponse,
    percentile,
    probe_health,
    send_at_random,
    send_in_turns,
    session,
)
from benchmark.load.soak import Soak
from tests.support.processes import Processes
from tests.support.serving import serving


def test_goodput_counts_answers_within_the_time_and_latency_only_refusals() -> None:
    good = [TimedResponse(200, 0.0, moment) for moment in (0.5, 1.0, 1.5, 2.5)]
    refused = [TimedResponse(429, 1.0, 1.0 + delay) for delay in (0.0078125, 0.03125)]
    shown = overload.overload_figures([*good, *refused, TimedResponse(500, 0, 1)], 4.0, 1.0, 2.0)
    assert shown == {
        "overload.goodput": 0.5,
        "overload.peak": 4.0,
        "overload.refused": 2,
        "overload.refused_p50_ms": 31.25,
        "overload.refused_p99_ms": 31.25,
        "overload.failed": 1,
    }


def test_a_request_is_starved_after_thirty_seconds_and_ten_times_its_service_alone() -> None:
    short = [TimedResponse(200, 0.0, 31.0), TimedResponse(200, 0.0, 32.5)]
    shown = starvation.figures(short, [TimedResponse(200, 0.0, 49.0)], 0.125, 2.0)
    assert (shown["live.starved"], shown["live.short"], shown["live.long"]) == (1, 2, 1)
    assert (
        starvation.figures([], [TimedResponse(0, 0.0, 1.0)], 1.0, 1.0)["live.longest_over_bound"]
        == inf
    )


def test_a_soak_compares_answers_and_measures_growth_after_the_warm_up() -> None:
    run = Soak()
    for moment, router, launcher, descriptors in (
        (0, 10, 1, 9),
        (3600, 90, 3, 5),
        (7200, 92, 4, 6),
        (10800, 94, 5, 7),
    ):
        run.samples["router"].append(ProcessUsage(moment, router, descriptors))
        run.samples["launcher"].append(ProcessUsage(moment, launcher, 3))
    for number, status, text in ((1, 200, "a"), (2, 200, "b"), (1, 200, "a"), (2, 200, "c")):
        run.on_answer(number, status, text)
    run.on_answer(1, 503, "")
    run.on_answer(1, 429, "")
    run.ends["faults"] += 1
    shown = soak.figures(run)
    assert (shown["soak.requests"], shown["soak.differing"], shown["soak.failed"]) == (6, 1, 1)
    assert shown["soak.refused"] == 1
    assert shown["soak.memory_mib_per_hour"] == pytest.approx(3.0), "of both processes"
    assert shown["soak.descriptors"] == 2


def test_the_usage_of_this_process_is_read() -> None:
    now = usage(os.getpid(), 1.0)
    assert now.memory_mib > 1
    assert now.descriptors >= 3
    assert memory_slope([ProcessUsage(0, 1, 1), ProcessUsage(1800, 2, 1)]) == pytest.approx(2.0)


def test_one_peak_of_memory_is_no_growth() -> None:
    samples = [ProcessUsage(60 * minute, 70 + 0.1 * minute, 9) for minute in range(10)]
    samples[7] = ProcessUsage(420, 120, 9)
    assert memory_slope(samples) == pytest.approx(6.0)


async def test_health_is_asked_for_until_the_end_and_hostile_requests_are_answered_or_cut() -> None:
    async with serving() as server, session(server.base_url) as opened:
        left = iter(range(3))
        assert len(await probe_health(opened, lambda: next(left, None) is None)) == 6
        await send_and_drain(server.base_url, [b"junk\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"])


def test_fairness_keeps_a_tenant_from_a_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenants, "REQUESTS", 20)
    rate = tenants.SHARE * tenants.saturation()
    unfair, fair = (tenants.quiet_ttft(rate, tenants.FLOOD, fairness) for fairness in (0.0, 10.0))
    assert fair < unfair / 2


def test_percentiles_of_few_values() -> None:
    assert percentile([], 99) == 0.0
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0


async def test_clients_send_in_turns_until_the_end_and_at_random_without_waiting() -> None:
    live, most = 0, 0

    async def send() -> TimedResponse:
        nonlocal live, most
        live += 1
        most = max(most, live)
        await asyncio.sleep(0)
        live -= 1
        return TimedResponse(200, 0.0, 1.0)

    left = iter(range(8))
    outcomes = await send_in_turns(send, 3, lambda: next(left, None) is None)
    assert (len(outcomes), most) == (8, 3)
    assert len(await send_at_random(send, 2000.0, 0.05, Random(1))) > 20


def test_processes_are_found_by_their_mark(processes: Processes) -> None:
    code = "import sys; print('ready', flush=True); sys.stdin.read()"
    running = processes.start("-c", code, env={MARK: "only here"}, stdin=-1)
    running.line("ready")
    assert marked_processes("only here") == [running.process.pid]
    assert running.process.stdin
    running.process.stdin.close()
    assert running.end() == 0
    assert marked_processes("only here") == []
