"""The figures of `python -m benchmark schedulers`: the workloads and variants that each compares.

A figure over several workloads is the ratio of mean latencies at each rho, each mean over all seeds
and requests, averaged over the rhos. Workloads have one row and one Step in flight unless stated.
`batch8_gain_kept` compares bursts of 30 requests per row, so that the same amount of work waits for
every row; `batch8_throughput` is output tokens per busy second relative to FCFS in the same burst.
`tail_mean_cost` is the relative increase of the mean by the tail parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import fsum
from statistics import fmean

from benchmark.simulation.plans import PolicyVariant, SimulationResult, Workload
from benchmark.simulation.probe import PROGRESS

SHAPES = ("chat", "code", "reasoning")
RHOS = (0.8, 0.9)
BURSTS = (10, 20, 30, 40, 50)
FIRST_THRESHOLD = 0.15
"""Sup_1 of LAS and of the paper's algorithm, relative to the mean service."""
FCFS, SJF, SRPT, LAPS = (PolicyVariant(name) for name in ("fcfs", "sjf", "srpt", "laps-sd"))
LAS, PAPER = (
    PolicyVariant(name, first_threshold=FIRST_THRESHOLD) for name in ("las", "laps-sd-paper")
)
LAPS_0, LAPS_06, LAPS_10 = (replace(LAPS, sigma=sigma) for sigma in (0.0, 0.6, 1.0))
REVERSED = replace(LAPS, reverse=True)
TAIL = replace(LAPS, flags=(("laps_tail", 0.5),))
ResultTable = Mapping[tuple[Workload, PolicyVariant], SimulationResult]


@dataclass(frozen=True, slots=True)
class StudySize:
    """How much is simulated."""

    seeds: int
    counts: Mapping[str, int]
    """Number of Poisson arrivals, by shape."""
    bursts: Sequence[int]
    burst_requests: int
    """Approximate number of requests of one shape and burst size, over all seeds."""
    shrink: Mapping[str, float] = field(default_factory=dict)

    def poisson(self, shape: str, rho: float) -> list[Workload]:
        """Return the workloads of all seeds."""
        shrink = self.shrink.get(shape, 1.0)
        count = self.counts[shape]
        return [Workload(shape, seed, count, rho, shrink=shrink) for seed in range(self.seeds)]

    def burst(self, shape: str, count: int, batch: int = 1) -> list[Workload]:
        """Return bursts of `count` requests per row."""
        seeds, depth = -(-self.burst_requests // (count * batch)), 1 if batch == 1 else 2
        shrink = self.shrink.get(shape, 1.0)
        return [
            Workload(shape, seed, count * batch, None, batch, depth, shrink=shrink)
            for seed in range(seeds)
        ]


FULL = StudySize(6, {"chat": 200, "code": 200, "reasoning": 100}, BURSTS, 240, {"reasoning": 2.0})
"""Answers of `reasoning` are half as long."""
QUICK = StudySize(
    2, {"chat": 130, "code": 130, "reasoning": 80}, (10, 30, 50), 100, {"reasoning": 4.0}
)
"""Answers of `reasoning` are a quarter as long, and bursts come in three sizes."""


def tasks(size: StudySize) -> dict[Workload, list[PolicyVariant]]:
    """Return the runs that the figures need."""
    wanted: dict[Workload, list[PolicyVariant]] = {}
    for shape in SHAPES:
        for load in size.poisson(shape, RHOS[0]):
            wanted[load] = [FCFS, LAS, SJF, SRPT, PAPER, LAPS, LAPS_10, REVERSED, TAIL, LAPS_0]
            wanted[load] += [LAPS_06] if shape == "chat" else []
        for load in size.poisson(shape, RHOS[1]):
            wanted[load] = [FCFS, LAS, SJF, SRPT, LAPS, LAPS_10, TAIL]
        for count in size.bursts:
            for load in size.burst(shape, count):
                wanted[load] = [SJF, LAPS]
    for load in (*size.burst("chat", 30, 8), *size.burst("chat", 30)):
        wanted[load] = [FCFS, LAPS, SJF]
    return wanted


def compute_metrics(table: ResultTable, size: StudySize) -> dict[str, float]:
    """Return the figures by name."""
    return {
        **{f"paper_over_las.{s}": mean_ratio(table, size, s, PAPER, LAS, RHOS[:1]) for s in SHAPES},
        **{f"laps_over_fcfs.{s}": mean_ratio(table, size, s, LAPS, FCFS) for s in SHAPES},
        **{f"laps_over_las.{s}": mean_ratio(table, size, s, LAPS, LAS) for s in SHAPES},
        **{f"laps_over_sjf.{s}": mean_ratio(table, size, s, LAPS, SJF) for s in SHAPES},
        **{f"laps_over_srpt_sigma03.{s}": mean_ratio(table, size, s, LAPS, SRPT) for s in SHAPES},
        **{
            f"laps_over_srpt_sigma10.{s}": mean_ratio(table, size, s, LAPS_10, SRPT) for s in SHAPES
        },
        "burst_over_sjf_worst": max(
            ratio(table, size.burst(shape, count), LAPS, SJF)
            for shape in SHAPES
            for count in size.bursts
        ),
        "tail_p99_over_fcfs": max(_tail_ratio(table, size, shape) for shape in SHAPES),
        "tail_mean_cost": max(mean_ratio(table, size, s, TAIL, LAPS) for s in SHAPES) - 1,
        **_batch_metrics(table, size),
        **_estimate_errors(table, size),
        "sigma06_over_sigma0.chat": mean_ratio(table, size, "chat", LAPS_06, LAPS_0, RHOS[:1]),
        "reversed_over_fcfs": max(
            mean_ratio(table, size, shape, REVERSED, FCFS, RHOS[:1]) for shape in SHAPES
        ),
    }


def ratio(
    table: ResultTable, loads: Sequence[Workload], variant: PolicyVariant, baseline: PolicyVariant
) -> float:
    """Return the ratio of mean latencies."""
    return column_sum(table, loads, variant, "mean") / column_sum(table, loads, baseline, "mean")


def column_sum(
    table: ResultTable, loads: Iterable[Workload], variant: PolicyVariant, column: str
) -> float:
    """Return the sum of one column over workloads."""
    return fsum(getattr(table[load, variant], column) for load in loads)


def mean_ratio(
    table: ResultTable,
    size: StudySize,
    shape: str,
    variant: PolicyVariant,
    baseline: PolicyVariant,
    rhos: Sequence[float] = RHOS,
) -> float:
    """Return the mean over `rhos` of the ratios of mean latencies."""
    return fmean(ratio(table, size.poisson(shape, rho), variant, baseline) for rho in rhos)


def _tail_ratio(table: ResultTable, size: StudySize, shape: str) -> float:
    loads = [size.poisson(shape, rho) for rho in RHOS]
    return fmean(
        column_sum(table, ls, TAIL, "p99") / column_sum(table, ls, FCFS, "p99") for ls in loads
    )


def _batch_metrics(table: ResultTable, size: StudySize) -> dict[str, float]:
    many, one = size.burst("chat", 30, 8), size.burst("chat", 30)
    gains = [1 - ratio(table, loads, LAPS, FCFS) for loads in (many, one)]
    rates = [column_sum(table, many, variant, "throughput") for variant in (LAPS, FCFS)]
    return {"batch8_gain_kept": gains[0] / gains[1], "batch8_throughput": rates[0] / rates[1]}


def _estimate_errors(table: ResultTable, size: StudySize) -> dict[str, float]:
    """Return the mean over shapes and seeds, with true lengths."""
    rows = [table[load, LAPS_0] for shape in SHAPES for load in size.poisson(shape, RHOS[0])]
    return {
        f"estimate_error_at_{percent}": fmean(row.errors[at] for row in rows)
        for percent, at in ((p, PROGRESS.index(p / 100)) for p in (25, 75))
    }
