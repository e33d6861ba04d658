"""What to simulate, as values: a load and an arm that serves it. One pair gives one row of results.

All arms see the same requests, arrivals and predictions of a load, so comparisons are paired. rho
is the arrival rate over the rate at which the same requests leave a server of the same batch size
that is never idle, under FCFS.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil
from pathlib import Path
from random import Random
from typing import Any

from benchmark.simulation import step_costs, traces, workloads
from benchmark.simulation.oracles import least_mean, srpt
from benchmark.simulation.simulator import Request, Result, Watch, simulate
from benchmark.simulation.step_costs import StepCosts
from benchmark.simulation.traces import Trace
from router.config import SchedulerConfig
from router.scheduler import build
from router.scheduler.base import Capacity, Scheduler

PAGE = 16
"""Tokens."""
COSTS = ("recorded", "7b")
"""Step costs as they were recorded, or assumed for the paper's class of models."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests, how they come, and the server that they meet."""

    shape: str
    """A made-up shape, or a file of recorded traces; `demo` is the bundled one."""
    seed: int
    count: int = 200
    rho: float | None = 0.8
    """None: all arrive at once."""
    batch: int = 1
    depth: int = 1
    memory: float | None = None
    """KV pages over what `batch` average requests fill at their ends, but never less than the
    largest request may need; None: room for all."""
    course: str = "steady"
    shrink: float = 1.0
    """Divides the output lengths of made-up shapes."""
    costs: str = "recorded"

    @property
    def tokens(self) -> float:
        """About how much there is to simulate."""
        shape = workloads.SHAPES.get(self.shape)
        return self.count * (shape.output[0] / self.shrink if shape else 200.0)


@dataclass(frozen=True, slots=True)
class Arm:
    """A policy with its flags, and what it is told of lengths."""

    policy: str
    """One that `build` knows, or `srpt`, the clairvoyant one, or `bound`, its least mean."""
    sigma: float | None = 0.3
    """Error of predicted lengths, as s.d. of the logarithm; None: nothing is predicted."""
    reverse: bool = False
    """Predictions rank the requests the wrong way round."""
    flags: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one load under one arm; times in seconds."""

    load: Load
    arm: Arm
    mean: float
    p50: float
    p99: float
    first_token: float
    """Mean time to the first token."""
    per_token: float
    """Mean time between the later tokens of a request."""
    throughput: float
    """Output tokens a second while the server was busy."""
    preemptions: float
    """Displacements of a request, of all kinds, on average."""
    moved: float
    """Tokens copied to the host or back per request."""
    service: float
    """Mean device seconds of a request."""


def run(load: Load, arm: Arm, watch: Watch | None = None) -> Row:
    """Simulate once."""
    if arm.policy == "bound":
        return _bound(load, arm)
    scheduler, requests = scheduler_of(load, arm), requests_of(load, arm)
    return _row(load, arm, simulate(scheduler, requests, costs_of(load), load.depth, watch))


def run_all(
    tasks: Iterable[tuple[Load, Sequence[Arm]]], processes: int | None = None
) -> Iterator[Row]:
    """Simulate every load under its arms, the largest first, in as many processes as wanted."""
    ordered = sorted(tasks, key=lambda task: -task[0].tokens * len(task[1]))
    if processes == 1:
        for task in ordered:
            yield from _task(task)
        return
    with ProcessPoolExecutor(processes) as pool:
        for future in [pool.submit(_task, task) for task in ordered]:
            yield from future.result()


def _task(task: tuple[Load, Sequence[Arm]]) -> list[Row]:
    load, arms = task
    return [run(load, arm) for arm in arms]


def scheduler_of(load: Load, arm: Arm) -> Scheduler:
    """The scheduler of `arm` on the server of `load`."""
    capacity = capacity_of(load)
    if arm.policy == "srpt":
        truth = {request.id: request.trace for request in requests_of(load, arm)}
        return srpt(capacity, truth, costs_of(load))
    return build(SchedulerConfig(scheduler=arm.policy, **dict(arm.flags)), capacity)


def requests_of(load: Load, arm: Arm) -> list[Request]:
    """The requests of `load` as they arrive, with what `arm` is told of them."""
    asked, expected = _traces(load), None
    if arm.sigma is not None:
        expected = workloads.predictions(asked, arm.sigma, load.seed, arm.reverse)
    if load.rho is None:
        return workloads.burst(asked, expected)
    return workloads.poisson(asked, expected, load.rho * saturated(_steady(load)), load.seed)


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
    return replace(load, rho=None, memory=None)


@lru_cache(32)
def _alone(load: Load) -> Result:
    arm = Arm("fcfs", sigma=None)
    return simulate(scheduler_of(load, arm), requests_of(load, arm), costs_of(load), load.depth)


def saturated(load: Load) -> float:
    """Requests a second that leave while every row is taken; those under way count as half."""
    finished = sorted(served.finished for served in _alone(load).served)
    left = min(load.batch, load.count) - 1
    return (load.count - left / 2) / finished[load.count - left - 1]


def _bound(load: Load, arm: Arm) -> Row:
    """The least mean latency by arithmetic, of one row at a time."""
    if load.batch != 1:
        raise ValueError("the bound is for one row at a time")
    services = {s.request.id: s.attained for s in _alone(_steady(load)).served}
    requests = requests_of(load, arm)
    mean = least_mean((request.at, services[request.id]) for request in requests)
    return Row(load, arm, mean, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def _row(load: Load, arm: Arm, result: Result) -> Row:
    served, count = result.served, len(result.served)
    later = [(s.finished - s.first_token) / (s.emitted - 1) for s in served if s.emitted > 1]
    preemptions: Mapping[str, int] = result.preemptions
    return Row(
        load=load,
        arm=arm,
        mean=result.mean,
        p50=result.quantile(0.5),
        p99=result.quantile(0.99),
        first_token=sum(s.first_token - s.request.at for s in served) / count,
        per_token=sum(later) / max(1, len(later)),
        throughput=sum(s.emitted for s in served) / result.busy,
        preemptions=sum(preemptions.values()) / count,
        moved=result.moved / count,
        service=sum(s.attained for s in served) / count,
    )
