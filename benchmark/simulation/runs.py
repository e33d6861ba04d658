"""Runs what `plans` name, in as many processes as wanted.

rho is the arrival rate over the rate at which the same requests leave a server of the same batch
size that is never idle, under FCFS. An empty server takes long to get as busy as rho makes it in
the end. So the first requests of a Poisson load come at once, as many as the work that is on
average waiting for one server then (Pollaczek and Khinchine); they are served but not counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import lru_cache
from math import ceil
from multiprocessing import cpu_count
from pathlib import Path
from random import Random
from statistics import fmean, pstdev
from typing import Any

from benchmark.simulation import laws, step_costs, traces, workloads
from benchmark.simulation.oracles import informed, srpt
from benchmark.simulation.plans import Arm, Load, Row
from benchmark.simulation.probe import Probe
from benchmark.simulation.queues import CUTS, following
from benchmark.simulation.simulator import Request, Result, quantile, simulate
from benchmark.simulation.step_costs import StepCosts
from benchmark.simulation.traces import Trace
from router.config import SchedulerConfig
from router.scheduler import build
from router.scheduler.api import Capacity, Job, Scheduler

PAGE = 16
"""Tokens."""
ORACLES = ("srpt", "informed")
"""Policies that know more than a server can."""


def run(load: Load, arm: Arm) -> Row:
    """Simulate once."""
    scheduler, requests = scheduler_of(load, arm), requests_of(load, arm)
    probe = Probe(scheduler, requests)
    result = simulate(scheduler, requests, costs_of(load), load.depth, probe.watch)
    return _row(load, arm, result, probe.errors(result))


Tasks = Mapping[Load, Sequence[Arm]]


def run_all(tasks: Tasks, processes: int | None = None) -> Iterator[Row]:
    """Simulate every load under its arms, the largest first, in as many processes as wanted.

    Loads of the same requests stay together, since what these take alone is found out once.
    """
    alike: dict[Load, list[Load]] = {}
    for load in tasks:
        alike.setdefault(_steady(load), []).append(load)
    jobs = [{load: tasks[load] for load in loads} for loads in alike.values()]
    jobs.sort(key=lambda job: -sum(load.tokens * len(arms) for load, arms in job.items()))
    with ProcessPoolExecutor(processes or cpu_count()) as pool:
        for rows in pool.map(_job, jobs):
            yield from rows


def _job(job: Tasks) -> list[Row]:
    return [run(load, arm) for load, arms in job.items() for arm in arms]


def scheduler_of(load: Load, arm: Arm) -> Scheduler:
    """The scheduler of `arm` on the server of `load`."""
    capacity = capacity_of(load)
    if arm.policy in ORACLES:
        return _oracle(load, arm, capacity)
    flags: dict[str, Any] = {"laps_drafts": load.drafts, **dict(arm.flags)}
    if arm.first is not None:
        flags["laps_first_threshold"] = arm.first * mean_service(load)
    if arm.policy in CUTS:
        return following(SchedulerConfig(**flags), capacity, CUTS[arm.policy])
    return build(SchedulerConfig(scheduler=arm.policy, **flags), capacity)


def _oracle(load: Load, arm: Arm, capacity: Capacity) -> Scheduler:
    truth = {request.id: request.trace for request in requests_of(load, arm)}
    costs, adapt = costs_of(load), load.drafts == "adaptive"
    if arm.policy == "srpt":
        tail = dict(arm.flags).get("laps_tail", 0.0)
        usual = mean_service(load) if tail else 1.0
        return srpt(capacity, truth, costs, adapt=adapt, tail=tail, usual=usual)
    before, sigma = laws.prior(workloads.SHAPES[load.shape], load.shrink), arm.sigma

    def law(job: Job) -> laws.Work:
        if job.expected is None or sigma is None:
            return laws.Work(before)
        return laws.Work(laws.posterior(before, job.expected, sigma))

    return informed(capacity, truth, costs, law, adapt=adapt)


def requests_of(load: Load, arm: Arm) -> list[Request]:
    """The requests of `load` as they arrive, with what `arm` is told of them."""
    cycle = [0, 0, *range(load.tenants)]
    return [replace(r, tenant=cycle[r.id % len(cycle)]) for r in _arriving(load, arm)]


def _arriving(load: Load, arm: Arm) -> list[Request]:
    asked, expected = _traces(load), None
    if arm.sigma is not None:
        expected = workloads.predictions(asked, arm.sigma, load.seed, arm.reverse)
    if load.waves:
        each = 1 / saturated(_steady(load))
        return workloads.waves(asked, expected, load.waves, each)
    if load.rho is None:
        return workloads.burst(asked, expected)
    rate = load.rho * saturated(_steady(load))
    return workloads.poisson(asked, expected, rate, load.seed, backlog(load))


def backlog(load: Load) -> int:
    """How many requests come at once before the others, and do not count."""
    if load.rho is None:
        return 0
    services = [s.attained for s in _alone(_steady(load)).served]
    spread = (pstdev(services) / fmean(services)) ** 2
    work = load.rho * (1 + spread) / (2 * (1 - load.rho))
    return min(round(work), load.count // 2)


def capacity_of(load: Load) -> Capacity:
    """The server of `load`."""
    each = [ceil((trace.prompt + trace.length) / PAGE) for trace in _traces(load)]
    most = max(ceil((trace.prompt + trace.max_new) / PAGE) for trace in _traces(load))
    pages, host = len(each) * (most + 1), 0
    if load.memory is not None:
        demand = load.batch * sum(each) / len(each)
        pages, host = max(most, ceil(load.memory * demand)), pages
    return costs_of(load).capacity(pages, load.batch, depth=load.depth, host_pages=host)


@lru_cache(8)
def _recorded(name: str) -> StepCosts:
    return step_costs.LLAMA_7B if name == "7b" else step_costs.load()


def costs_of(load: Load) -> StepCosts:
    """What Steps cost on the server of `load`."""
    return _recorded(load.costs)


def _traces(load: Load) -> list[Trace]:
    return _drawn(load.shape, load.seed, load.count, load.course, load.shrink)


@lru_cache(8)
def _drawn(shape: str, seed: int, count: int, course: str, shrink: float) -> list[Trace]:
    made_up = workloads.SHAPES.get(shape)
    if made_up is not None:
        return workloads.traces(made_up, count, seed, course, shrink)
    recorded = traces.load(traces.RECORDED if shape == "demo" else Path(shape))
    return Random(seed).choices(recorded, k=count)  # noqa: S311 - no secret is drawn


def _steady(load: Load) -> Load:
    """The burst that tells how fast a server is."""
    return replace(load, rho=None, waves=(), memory=None)


@lru_cache(32)
def _alone(load: Load) -> Result:
    arm = Arm("fcfs", sigma=None)
    return simulate(scheduler_of(load, arm), requests_of(load, arm), costs_of(load), load.depth)


def saturated(load: Load) -> float:
    """Requests a second that leave while every row is taken; those under way count as half."""
    finished = sorted(served.finished for served in _alone(load).served)
    left = min(load.batch, load.count) - 1
    return (load.count - left / 2) / finished[load.count - left - 1]


def mean_service(load: Load) -> float:
    """Device seconds of a request, on average, when all come at once under FCFS."""
    return fmean(s.attained for s in _alone(_steady(load)).served)


def _row(load: Load, arm: Arm, result: Result, errors: tuple[float, ...]) -> Row:
    served = result.served[backlog(load) :]
    latencies = sorted(s.latency for s in served)
    slow = sorted(s.slowdown for s in served)
    tenants = [
        [s.slowdown for s in served if s.request.tenant == tenant] for tenant in range(load.tenants)
    ]
    later = [(s.finished - s.first_token) / (s.emitted - 1) for s in served if s.emitted > 1]
    return Row(
        load=load,
        arm=arm,
        mean=fmean(latencies),
        p50=quantile(latencies, 0.5),
        p99=quantile(latencies, 0.99),
        first_token=fmean(s.first_token - s.request.at for s in served),
        per_token=fmean(later or [0.0]),
        throughput=sum(s.emitted for s in result.served) / result.busy,
        preemptions=sum(result.preemptions.values()) / len(result.served),
        moved=result.moved / len(result.served),
        service=fmean(s.attained for s in served),
        slowdowns=tuple(quantile(slow, share) for share in (0.5, 0.95, 0.99)),
        tenant_slowdowns=tuple(fmean(mine or [0.0]) for mine in tenants),
        errors=errors,
    )
