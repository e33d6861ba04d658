"""Simulates the workloads and variants of `plans`, in several processes.

rho is the arrival rate relative to the rate at which the same requests leave a server of the same
batch size that is never idle, under FCFS. An empty server takes long to reach its steady state. So
the first requests of a Poisson load arrive at once, as many as the work that is waiting on average
(Pollaczek-Khinchine); they are served but not counted.
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
from benchmark.simulation.oracles import all_but_length, srpt
from benchmark.simulation.plans import PolicyVariant, SimulationResult, Workload
from benchmark.simulation.probe import EstimateProbe
from benchmark.simulation.queues import THRESHOLD_RULES, adaptive_queues
from benchmark.simulation.simulator import SimulatedRequest, SimulatedRun, quantile, simulate
from benchmark.simulation.step_costs import StepCosts
from benchmark.simulation.traces import Trace
from router.scheduler import build
from router.scheduler.api import DeviceCapacity, Job, Scheduler
from router.scheduler.config import SchedulerConfig

PAGE_SIZE = 16
"""Tokens."""
ORACLES = ("srpt", "informed")
"""Clairvoyant policies."""


def run(load: Workload, variant: PolicyVariant) -> SimulationResult:
    """Simulate one workload under one variant."""
    scheduler, requests = scheduler_of(load, variant), requests_of(load, variant)
    probe = EstimateProbe(scheduler, requests)
    result = simulate(scheduler, requests, costs_of(load), load.depth, probe.on_step)
    return _summarize(load, variant, result, probe.errors(result))


Tasks = Mapping[Workload, Sequence[PolicyVariant]]


def run_all(tasks: Tasks, processes: int | None = None) -> Iterator[SimulationResult]:
    """Simulate every workload under its variants, the largest first.

    `processes`: None for one per core. Workloads of the same requests stay in one process, which
    computes their service times once.
    """
    groups: dict[Workload, list[Workload]] = {}
    for load in tasks:
        groups.setdefault(_saturating_burst(load), []).append(load)
    jobs = [{load: tasks[load] for load in loads} for loads in groups.values()]
    jobs.sort(
        key=lambda job: (
            -sum(load.estimated_tokens * len(variants) for load, variants in job.items())
        )
    )
    with ProcessPoolExecutor(processes or cpu_count()) as pool:
        for rows in pool.map(_run_group, jobs):
            yield from rows


def _run_group(job: Tasks) -> list[SimulationResult]:
    return [run(load, variant) for load, variants in job.items() for variant in variants]


def scheduler_of(load: Workload, variant: PolicyVariant) -> Scheduler:
    """Return the scheduler of `variant` on the server of `load`."""
    capacity = capacity_of(load)
    if variant.policy in ORACLES:
        return _oracle(load, variant, capacity)
    flags: dict[str, Any] = {"laps_drafts": load.drafts, **dict(variant.flags)}
    if variant.first_threshold is not None:
        flags["laps_first_threshold"] = variant.first_threshold * mean_service(load)
    if variant.policy in THRESHOLD_RULES:
        return adaptive_queues(SchedulerConfig(**flags), capacity, THRESHOLD_RULES[variant.policy])
    return build(SchedulerConfig(scheduler=variant.policy, **flags), capacity)


def _oracle(load: Workload, variant: PolicyVariant, capacity: DeviceCapacity) -> Scheduler:
    truth = {request.id: request.trace for request in requests_of(load, variant)}
    costs, adapt = costs_of(load), load.drafts == "adaptive"
    if variant.policy == "srpt":
        tail = dict(variant.flags).get("laps_tail", 0.0)
        mean_size = mean_service(load) if tail else 1.0
        return srpt(capacity, truth, costs, adapt=adapt, tail=tail, mean_size=mean_size)
    before, sigma = laws.prior_lengths(workloads.SHAPES[load.shape], load.shrink), variant.sigma

    def length_index(job: Job) -> laws.GittinsIndex:
        if job.expected is None or sigma is None:
            return laws.GittinsIndex(before)
        return laws.GittinsIndex(laws.posterior_lengths(before, job.expected, sigma))

    return all_but_length(capacity, truth, costs, length_index, adapt=adapt)


def requests_of(load: Workload, variant: PolicyVariant) -> list[SimulatedRequest]:
    """Return the requests of `load` in order of arrival, with the predictions of `variant`."""
    cycle = [0, 0, *range(load.tenants)]
    return [replace(r, tenant=cycle[r.id % len(cycle)]) for r in _arrivals(load, variant)]


def _arrivals(load: Workload, variant: PolicyVariant) -> list[SimulatedRequest]:
    answers, expected = _workload_traces(load), None
    if variant.sigma is not None:
        expected = workloads.predictions(answers, variant.sigma, load.seed, variant.reverse)
    if load.waves:
        each = 1 / saturation_rate(_saturating_burst(load))
        return workloads.waves(answers, expected, load.waves, each)
    if load.rho is None:
        return workloads.burst(answers, expected)
    rate = load.rho * saturation_rate(_saturating_burst(load))
    return workloads.poisson(answers, expected, rate, load.seed, backlog(load))


def backlog(load: Workload) -> int:
    """Return how many requests arrive at once before the others; they are not counted."""
    if load.rho is None:
        return 0
    services = [s.device_seconds for s in _saturated_run(_saturating_burst(load)).served]
    spread = (pstdev(services) / fmean(services)) ** 2
    work = load.rho * (1 + spread) / (2 * (1 - load.rho))
    return min(round(work), load.count // 2)


def capacity_of(load: Workload) -> DeviceCapacity:
    """Return the capacity of the server of `load`."""
    each = [
        ceil((trace.prompt_tokens + trace.length) / PAGE_SIZE) for trace in _workload_traces(load)
    ]
    largest = max(
        ceil((trace.prompt_tokens + trace.max_new) / PAGE_SIZE) for trace in _workload_traces(load)
    )
    pages, host = len(each) * (largest + 1), 0
    if load.memory is not None:
        demand = load.batch * sum(each) / len(each)
        pages, host = max(largest, ceil(load.memory * demand)), pages
    return costs_of(load).capacity(pages, load.batch, depth=load.depth, host_pages=host)


@lru_cache(8)
def _costs_by_name(name: str) -> StepCosts:
    return step_costs.LLAMA_7B if name == "7b" else step_costs.load()


def costs_of(load: Workload) -> StepCosts:
    """Return what Steps cost on the server of `load`."""
    return _costs_by_name(load.costs)


def _workload_traces(load: Workload) -> list[Trace]:
    return _draw_traces(load.shape, load.seed, load.count, load.acceptance_pattern, load.shrink)


@lru_cache(8)
def _draw_traces(
    shape: str, seed: int, count: int, acceptance_pattern: str, shrink: float
) -> list[Trace]:
    generated = workloads.SHAPES.get(shape)
    if generated is not None:
        return workloads.traces(generated, count, seed, acceptance_pattern, shrink)
    recorded = traces.load(traces.RECORDED_TRACES if shape == "demo" else Path(shape))
    return Random(seed).choices(recorded, k=count)  # noqa: S311 - no secret is drawn


def _saturating_burst(load: Workload) -> Workload:
    """Return the burst that measures how fast a server is."""
    return replace(load, rho=None, waves=(), memory=None)


@lru_cache(32)
def _saturated_run(load: Workload) -> SimulatedRun:
    variant = PolicyVariant("fcfs", sigma=None)
    return simulate(
        scheduler_of(load, variant), requests_of(load, variant), costs_of(load), load.depth
    )


def saturation_rate(load: Workload) -> float:
    """Return the requests per second that leave while every row is in use.

    Requests that are in progress then count as half.
    """
    finished = sorted(served.finished for served in _saturated_run(load).served)
    left = min(load.batch, load.count) - 1
    return (load.count - left / 2) / finished[load.count - left - 1]


def mean_service(load: Workload) -> float:
    """Return the mean device seconds of a request, if all arrive at once under FCFS."""
    return fmean(s.device_seconds for s in _saturated_run(_saturating_burst(load)).served)


def _summarize(
    load: Workload, variant: PolicyVariant, result: SimulatedRun, errors: tuple[float, ...]
) -> SimulationResult:
    served = result.served[backlog(load) :]
    latencies = sorted(s.latency for s in served)
    slow = sorted(s.slowdown for s in served)
    tenants = [
        [s.slowdown for s in served if s.request.tenant == tenant] for tenant in range(load.tenants)
    ]
    later = [(s.finished - s.first_token) / (s.emitted - 1) for s in served if s.emitted > 1]
    return SimulationResult(
        workload=load,
        variant=variant,
        mean=fmean(latencies),
        p50=quantile(latencies, 0.5),
        p99=quantile(latencies, 0.99),
        first_token=fmean(s.first_token - s.request.arrival for s in served),
        per_token=fmean(later or [0.0]),
        throughput=sum(s.emitted for s in result.served) / result.busy,
        preemptions=sum(result.preemptions.values()) / len(result.served),
        moved=result.moved / len(result.served),
        service=fmean(s.device_seconds for s in served),
        slowdowns=tuple(quantile(slow, share) for share in (0.5, 0.95, 0.99)),
        tenant_slowdowns=tuple(fmean(mine or [0.0]) for mine in tenants),
        errors=errors,
    )
