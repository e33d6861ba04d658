"""The simulator: what it conserves and repeats, and that clairvoyance is a bound."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.simulation import workloads
from benchmark.simulation.device import ContractViolation
from benchmark.simulation.oracles import optimal_mean_latency
from benchmark.simulation.plans import PolicyVariant, Workload, flatten, unflatten
from benchmark.simulation.queues import THRESHOLD_RULES
from benchmark.simulation.runs import ORACLES, capacity_of, requests_of, run, scheduler_of
from benchmark.simulation.simulator import SimulatedRequest, SimulatedRun, simulate
from benchmark.simulation.step_costs import LLAMA_7B
from benchmark.simulation.traces import Trace
from router.scheduler import build
from router.scheduler.api import ScheduledBatch, ScheduledRow
from router.scheduler.config import SchedulerConfig as Settings
from router.scheduler.policies import POLICIES

SMALL = Workload("code", seed=3, count=30, rho=0.9, shrink=2.0, costs="7b")


def result(load: Workload, arm: PolicyVariant) -> SimulatedRun:
    return simulate(scheduler_of(load, arm), requests_of(load, arm), LLAMA_7B, load.depth)


@pytest.mark.parametrize("policy", [*POLICIES, *ORACLES, *THRESHOLD_RULES])
@pytest.mark.parametrize(("batch", "depth"), [(1, 1), (3, 2)])
def test_every_request_gets_its_whole_answer(policy: str, batch: int, depth: int) -> None:
    load = replace(SMALL, batch=batch, depth=depth, memory=0.5)
    served = result(load, PolicyVariant(policy, first_threshold=0.15)).served
    assert [s.emitted for s in served] == [s.request.trace.length for s in served]
    for one in served:
        assert one.request.arrival < one.first_token <= one.finished
        assert one.accepted <= min(one.drafted, one.emitted)


@settings(max_examples=30, deadline=None)
@given(
    answers=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8),
    draft=st.integers(0, 5),
    rows=st.integers(1, 3),
    depth=st.integers(1, 2),
)
def test_tokens_and_device_time_add_up(
    answers: list[bytes], draft: int, rows: int, depth: int
) -> None:
    traces = [Trace("", 5, len(a) + 1, bytes(byte & 1 for byte in a)) for a in answers]
    capacity = LLAMA_7B.capacity(64, rows, draft, depth=depth)
    scheduler = build(Settings(), capacity)
    found = simulate(scheduler, workloads.burst(traces, None), LLAMA_7B, depth)
    assert [s.emitted for s in found.served] == [len(answer) for answer in answers]
    assert sum(s.device_seconds for s in found.served) == pytest.approx(found.busy)
    assert max(s.finished for s in found.served) >= found.busy * (1 - 1e-9)


def test_the_same_seed_gives_the_same_row_and_another_does_not() -> None:
    first, again = run(SMALL, PolicyVariant("laps-sd")), run(SMALL, PolicyVariant("laps-sd"))
    other = run(replace(SMALL, seed=4), PolicyVariant("laps-sd"))
    assert first == again
    assert first.mean != other.mean


def test_alone_a_request_takes_what_its_rounds_cost() -> None:
    """Drafts 5, 5 and then what is left to draft; two are right, then none, then all."""
    trace = Trace("", 4, 8, bytes([1, 1, 0, 0, 1, 1, 1, 1]))
    capacity = LLAMA_7B.capacity(64, 1, depth=1)
    scheduler = build(Settings(scheduler="fcfs"), capacity)
    drafts: list[tuple[int, int, int]] = []

    def watch(outcomes, now):  # type: ignore[no-untyped-def]
        drafts.extend((o.drafted, o.accepted, o.emitted) for o in outcomes)

    found = simulate(scheduler, [SimulatedRequest(1, 2.0, trace)], LLAMA_7B, on_step=watch)
    assert sum(emitted for _, _, emitted in drafts) == 8
    assert all(emitted <= accepted + 1 for _, accepted, emitted in drafts)
    [served] = found.served
    assert served.latency == pytest.approx(served.device_seconds)
    assert found.steps == len(drafts)


def test_clairvoyance_comes_close_to_the_arithmetic_least_mean_and_is_best() -> None:
    """On average over seeds: single runs differ, since drafts depend on who was served before."""
    arms = {name: PolicyVariant(name) for name in ("srpt", "fcfs", "sjf", "e-srpt", "laps-sd")}
    means = dict.fromkeys(arms, 0.0)
    least = 0.0
    for seed in range(3):
        load = replace(SMALL, seed=seed, count=20, rho=None)
        for name, arm in arms.items():
            found = result(load, arm)
            means[name] += found.mean
            if name == "srpt":
                least += optimal_mean_latency(
                    (s.request.arrival, s.device_seconds) for s in found.served
                )
    assert least == pytest.approx(means["srpt"], rel=0.01)
    assert min(means.values()) == means["srpt"]


def test_with_drafts_of_a_fixed_length_service_does_not_depend_on_the_order() -> None:
    load = replace(SMALL, drafts="longest")
    alone = [
        s.device_seconds for s in result(replace(load, rho=None), PolicyVariant("fcfs")).served
    ]
    for policy in ("laps-sd", "sjf-preemptive", "las", "srpt"):
        assert [
            s.device_seconds for s in result(load, PolicyVariant(policy)).served
        ] == pytest.approx(alone)


def test_knowing_all_but_the_length_does_not_beat_clairvoyance() -> None:
    loads = [replace(SMALL, seed=seed, count=30, drafts="longest") for seed in range(3)]
    means = {
        arm: sum(result(load, arm).mean for load in loads)
        for arm in (
            PolicyVariant("srpt"),
            PolicyVariant("informed", sigma=0.05),
            PolicyVariant("informed", sigma=1.0),
            PolicyVariant("fcfs"),
        )
    }
    assert list(means.values()) == sorted(means.values())


def test_waves_come_when_a_busy_server_is_done_with_those_before() -> None:
    load = replace(SMALL, rho=None, waves=(5, 20, 5))
    times = [request.arrival for request in requests_of(load, PolicyVariant("fcfs"))]
    assert times[:5] == [0.0] * 5
    assert times[24] == pytest.approx(times[5])
    assert times[29] / times[5] == pytest.approx(5.0)


def test_of_three_tenants_the_first_sends_most_and_each_has_its_slowdown() -> None:
    load = replace(SMALL, tenants=3)
    sent = [request.tenant for request in requests_of(load, PolicyVariant("fcfs"))]
    assert [sent.count(tenant) for tenant in range(3)] == [18, 6, 6]
    row = run(load, PolicyVariant("laps-sd"))
    assert len(row.tenant_slowdowns) == 3
    assert 1 <= row.slowdowns[0] <= row.slowdowns[1] <= row.slowdowns[2]


def test_the_least_mean_is_preemptive_shortest_remaining_first() -> None:
    # the long job runs 1 s, gives way to the short one for 2 s, and ends at 12
    assert optimal_mean_latency([(0.0, 10.0), (1.0, 2.0)]) == pytest.approx(
        ((12 - 0) + (3 - 1)) / 2
    )
    assert optimal_mean_latency([(0.0, 1.0), (5.0, 1.0)]) == pytest.approx(1.0)


def test_less_memory_makes_switches_cost_something() -> None:
    plenty = replace(SMALL, batch=4, depth=2, count=60)
    tight = replace(plenty, memory=0.3)
    assert run(plenty, PolicyVariant("srpt")).moved == 0
    displaced = run(tight, PolicyVariant("las"))
    assert displaced.moved + displaced.preemptions > 0


class BrokenScheduler:
    """Decodes a row whose prompt was never fed."""

    def __init__(self) -> None:
        self.asked = False

    def submit(self, job: object, now: float) -> None:
        self.asked = True

    def next_batch(self, now: float) -> ScheduledBatch | None:
        return ScheduledBatch((ScheduledRow(1, 0, 0),)) if self.asked else None


def test_what_no_shard_could_do_is_refused() -> None:
    asked = [SimulatedRequest(1, 0.0, Trace("", 4, 8, bytes(3)))]
    with pytest.raises(ContractViolation, match="row 1 cannot decode"):
        simulate(BrokenScheduler(), asked, LLAMA_7B)  # type: ignore[arg-type]


def test_rows_survive_their_file() -> None:
    row = run(SMALL, PolicyVariant("laps-sd", flags=(("laps_tail", 0.1),), first_threshold=0.2))
    again = unflatten(flatten(row))
    assert (again.workload, again.variant) == (row.workload, row.variant)
    assert again.mean == pytest.approx(row.mean, rel=1e-5)
    assert len(again.errors) == len(row.errors)


def test_the_server_of_a_load_holds_its_largest_request() -> None:
    capacity = capacity_of(replace(SMALL, memory=0.01))
    asked = requests_of(SMALL, PolicyVariant("fcfs"))
    assert capacity.pages * 16 >= max(r.trace.prompt_tokens + r.trace.max_new for r in asked)
