"""Variants of LAPS-SD and of the paper's algorithm: queues, single parts changed, tenants.

Names workloads and variants, and makes tables of their results.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import fsum
from statistics import fmean

from benchmark.simulation.plans import PolicyVariant, Workload
from benchmark.simulation.queues import THRESHOLD_RULES
from benchmark.study.figures import (
    FCFS,
    LAPS,
    LAS,
    PAPER,
    SJF,
    SRPT,
    ResultTable,
    StudySize,
    column_sum,
    ratio,
)
from benchmark.study.parts import (
    add_simulations,
    laps_with_queues,
    paper_with_queues,
    reduced_seeds,
)
from benchmark.study.tables import markdown_table

WAVES = (10, 50, 10, 50, 10)
STATIC_QUEUE_COUNTS = (1, 2, 3, 4, 5, 6, 8)
WAVE_SHAPES = ("chat", "code")
ABLATIONS = {
    "defaults": LAPS,
    "ranked by the mean": replace(LAPS, flags=(("laps_rank", "remaining"),)),
    "plain lengths": replace(LAPS, flags=(("laps_lengths", "plain"),)),
}
TENANTS = {
    "FCFS": FCFS,
    "LAS": LAS,
    "LP-SJF": SJF,
    "LAPS-SD": LAPS,
    "LAPS-SD, fairness 1": replace(LAPS, flags=(("laps_fairness", 1.0),)),
}


def tasks(size: StudySize) -> dict[Workload, list[PolicyVariant]]:
    """Return all runs, without duplicates."""
    wanted: dict[Workload, list[PolicyVariant]] = {}
    for shape in WAVE_SHAPES:
        add_simulations(
            wanted,
            ((load, [*wave_variants().values(), SRPT]) for load in wave_workloads(size, shape)),
        )
    for loads in server_workloads(size).values():
        add_simulations(wanted, ((load, list(ABLATIONS.values())) for load in loads))
    add_simulations(wanted, ((load, list(TENANTS.values())) for load in tenant_workloads(size)))
    return wanted


def tables(table: ResultTable, size: StudySize) -> dict[str, str]:
    """Return the tables by their names in the page."""
    builders = {"waves": _waves, "ablations": _ablations, "tenants": _tenants}
    return {name: make(table, size) for name, make in builders.items()}


def wave_workloads(size: StudySize, shape: str) -> list[Workload]:
    """Return bursts of ten requests, then fifty, and so on, each when the last is about done."""
    return [Workload(shape, seed, sum(WAVES), None, waves=WAVES) for seed in range(size.seeds)]


def wave_variants() -> dict[str, PolicyVariant]:
    """Return fixed numbers of queues, then adaptive ones, then none."""
    static = {f"K = {count}": paper_with_queues(count) for count in STATIC_QUEUE_COUNTS}
    following = {name: replace(PAPER, policy=name) for name in THRESHOLD_RULES}
    calibrated = {
        "K = 4, our lengths": laps_with_queues(("laps_perception", "window")),
        "K = 4, our lengths, soft, width .3": laps_with_queues(("laps_width", 0.3)),
    }
    return {**static, **following, **calibrated, "no queues": LAPS}


def server_workloads(size: StudySize) -> dict[str, list[Workload]]:
    """Return the workloads of the ablations: one row, and eight rows with little memory."""
    one = [Workload("chat", seed, 200, 0.8) for seed in range(size.seeds)]
    two = [Workload("chat", seed, 300, 0.9, 8, 2, 0.5) for seed in range(size.seeds)]
    shallow = [replace(load, depth=1) for load in two]
    return {"one row": one, "8 rows, memory 0.5": two, "the same, depth 1": shallow}


def tenant_workloads(size: StudySize) -> list[Workload]:
    """Return workloads of three tenants, the first with three times as many requests."""
    return [Workload("chat", seed, 200, 0.9, tenants=3) for seed in range(reduced_seeds(size))]


def _waves(table: ResultTable, size: StudySize) -> str:
    variants = wave_variants()
    columns = []
    for shape in WAVE_SHAPES:
        means = [
            ratio(table, wave_workloads(size, shape), variant, SRPT)
            for variant in variants.values()
        ]
        best = min(means[: len(STATIC_QUEUE_COUNTS)])
        columns.append([f"{mean:.2f}, {100 * (mean / best - 1):+.0f} %" for mean in means])
    return _columns("mean over SRPT, regret to the best fixed K", variants, WAVE_SHAPES, columns)


def _ablations(table: ResultTable, size: StudySize) -> str:
    columns = []
    for loads in server_workloads(size).values():
        column = []
        for variant in ABLATIONS.values():
            preemptions = column_sum(table, loads, variant, "preemptions") / len(loads)
            moved = column_sum(table, loads, variant, "moved") / len(loads)
            column.append(
                f"{ratio(table, loads, variant, LAPS):.2f}, {preemptions:.2f}, {moved:.0f}"
            )
        columns.append(column)
    head = "mean over LAPS-SD's, preemptions, tokens moved per request"
    return _columns(head, ABLATIONS, server_workloads(size), columns)


def _tenants(table: ResultTable, size: StudySize) -> str:
    loads, rows = tenant_workloads(size), []
    for name, variant in TENANTS.items():
        results = [table[load, variant] for load in loads]
        slow = [fmean(row.slowdowns[at] for row in results) for at in range(3)]
        each = [fmean(row.tenant_slowdowns[at] for row in results) for at in range(3)]
        cells = [ratio(table, loads, variant, FCFS), *slow, *each, jain_index(each)]
        rows.append([name, *(f"{cell:.2f}" for cell in cells)])
    heads = ["", "mean over FCFS", "slowdown p50", "p95", "p99", "busy tenant", "2nd", "3rd"]
    return markdown_table([*heads, "Jain"], rows)


def jain_index(shares: Iterable[float]) -> float:
    """Return Jain's index of fairness: 1 if all are equal, 1/n if one has everything."""
    values = list(shares)
    return fsum(values) ** 2 / (len(values) * fsum(value * value for value in values))


def _columns(
    head: str, names: Iterable[str], heads: Iterable[str], columns: Iterable[list[str]]
) -> str:
    cells = zip(*columns, strict=True)
    return markdown_table(
        [head, *heads], [[name, *row] for name, row in zip(names, cells, strict=True)]
    )
