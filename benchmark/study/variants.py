"""LAPS-SD and the paper's algorithm with something else about them: queues, parts, tenants.

Rule: names loads and arms, and says what came of them.
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
    "as shipped": LAPS,
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
    """All runs, without doubles."""
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
    """By the names that the page gives them."""
    made = {"waves": _waves, "ablations": _ablations, "tenants": _tenants}
    return {name: make(table, size) for name, make in made.items()}


def wave_workloads(size: StudySize, shape: str) -> list[Workload]:
    """Ten requests, then fifty, and so on, each when the last ones are about done."""
    return [Workload(shape, seed, sum(WAVES), None, waves=WAVES) for seed in range(size.seeds)]


def wave_variants() -> dict[str, PolicyVariant]:
    """Fixed numbers of queues, then what follows the load, then none."""
    static = {f"K = {count}": paper_with_queues(count) for count in STATIC_QUEUE_COUNTS}
    following = {name: replace(PAPER, policy=name) for name in THRESHOLD_RULES}
    ours = {
        "K = 4, our lengths": laps_with_queues(("laps_perception", "window")),
        "K = 4, our lengths, soft, width .3": laps_with_queues(("laps_width", 0.3)),
    }
    return {**static, **following, **ours, "no queues": LAPS}


def server_workloads(size: StudySize) -> dict[str, list[Workload]]:
    """What the parts are tried on: one row; eight with little memory, one and two Steps ahead."""
    one = [Workload("chat", seed, 200, 0.8) for seed in range(size.seeds)]
    two = [Workload("chat", seed, 300, 0.9, 8, 2, 0.5) for seed in range(size.seeds)]
    shallow = [replace(load, depth=1) for load in two]
    return {"one row": one, "8 rows, memory 0.5": two, "the same, depth 1": shallow}


def tenant_workloads(size: StudySize) -> list[Workload]:
    """Three tenants, one of whom sends as much as three."""
    return [Workload("chat", seed, 200, 0.9, tenants=3) for seed in range(reduced_seeds(size))]


def _waves(table: ResultTable, size: StudySize) -> str:
    arms = wave_variants()
    columns = []
    for shape in WAVE_SHAPES:
        means = [ratio(table, wave_workloads(size, shape), arm, SRPT) for arm in arms.values()]
        best = min(means[: len(STATIC_QUEUE_COUNTS)])
        columns.append([f"{mean:.2f}, {100 * (mean / best - 1):+.0f} %" for mean in means])
    return _columns("mean over SRPT, regret to the best fixed K", arms, WAVE_SHAPES, columns)


def _ablations(table: ResultTable, size: StudySize) -> str:
    columns = []
    for loads in server_workloads(size).values():
        column = []
        for arm in ABLATIONS.values():
            often = column_sum(table, loads, arm, "preemptions") / len(loads)
            moved = column_sum(table, loads, arm, "moved") / len(loads)
            column.append(f"{ratio(table, loads, arm, LAPS):.2f}, {often:.2f}, {moved:.0f}")
        columns.append(column)
    head = "mean over LAPS-SD's, preemptions, tokens moved per request"
    return _columns(head, ABLATIONS, server_workloads(size), columns)


def _tenants(table: ResultTable, size: StudySize) -> str:
    loads, rows = tenant_workloads(size), []
    for name, arm in TENANTS.items():
        mine = [table[load, arm] for load in loads]
        slow = [fmean(row.slowdowns[at] for row in mine) for at in range(3)]
        each = [fmean(row.tenant_slowdowns[at] for row in mine) for at in range(3)]
        cells = [ratio(table, loads, arm, FCFS), *slow, *each, jain_index(each)]
        rows.append([name, *(f"{cell:.2f}" for cell in cells)])
    heads = ["", "mean over FCFS", "slowdown p50", "p95", "p99", "busy tenant", "2nd", "3rd"]
    return markdown_table([*heads, "Jain"], rows)


def jain_index(shares: Iterable[float]) -> float:
    """Jain's index of fairness: 1 where all are equal, 1/n where one has everything."""
    found = list(shares)
    return fsum(found) ** 2 / (len(found) * fsum(share * share for share in found))


def _columns(
    head: str, names: Iterable[str], heads: Iterable[str], columns: Iterable[list[str]]
) -> str:
    cells = zip(*columns, strict=True)
    return markdown_table(
        [head, *heads], [[name, *row] for name, row in zip(names, cells, strict=True)]
    )
