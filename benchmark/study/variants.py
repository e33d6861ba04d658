"""LAPS-SD and the paper's algorithm with something else about them: queues, parts, tenants.

Rule: names loads and arms, and says what came of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import fsum
from statistics import fmean

from benchmark.simulation.plans import Arm, Load
from benchmark.simulation.queues import CUTS
from benchmark.study.figures import FCFS, LAPS, LAS, PAPER, SJF, SRPT, Size, Table, ratio, total
from benchmark.study.parts import few, merge, queued, queues
from benchmark.study.tables import grid

WAVES = (10, 50, 10, 50, 10)
STATIC = (1, 2, 3, 4, 5, 6, 8)
WAVE_SHAPES = ("chat", "code")
ABLATIONS = {
    "as shipped": LAPS,
    "ranked by the mean": replace(LAPS, flags=(("laps_rank", "remaining"),)),
    "plain lengths": replace(LAPS, flags=(("laps_lengths", "plain"),)),
    "no hysteresis": replace(LAPS, flags=(("laps_hysteresis", 0.0),)),
    "no alarm": replace(LAPS, flags=(("laps_alarm", 0.0),)),
    "lock 0.8": replace(LAPS, flags=(("laps_lock", 0.8),)),
    "volume 1": replace(LAPS, flags=(("laps_volume", 1.0),)),
    "peak test": replace(LAPS, flags=(("laps_peak", True),)),
}
TENANTS = {
    "FCFS": FCFS,
    "LAS": LAS,
    "LP-SJF": SJF,
    "LAPS-SD": LAPS,
    "LAPS-SD, fairness 1": replace(LAPS, flags=(("laps_fairness", 1.0),)),
}


def tasks(size: Size) -> dict[Load, list[Arm]]:
    """All runs, without doubles."""
    wanted: dict[Load, list[Arm]] = {}
    for shape in WAVE_SHAPES:
        merge(wanted, ((load, [*wave_arms().values(), SRPT]) for load in waves(size, shape)))
    for loads in servers(size).values():
        merge(wanted, ((load, list(ABLATIONS.values())) for load in loads))
    merge(wanted, ((load, list(TENANTS.values())) for load in shared(size)))
    return wanted


def tables(table: Table, size: Size) -> dict[str, str]:
    """By the names that the page gives them."""
    made = {"waves": _waves, "ablations": _ablations, "tenants": _tenants}
    return {name: make(table, size) for name, make in made.items()}


def waves(size: Size, shape: str) -> list[Load]:
    """Ten requests, then fifty, and so on, each when the last ones are about done."""
    return [Load(shape, seed, sum(WAVES), None, waves=WAVES) for seed in range(size.seeds)]


def wave_arms() -> dict[str, Arm]:
    """Fixed numbers of queues, then what follows the load, then none."""
    static = {f"K = {count}": queues(count) for count in STATIC}
    following = {name: replace(PAPER, policy=name) for name in CUTS}
    ours = {
        "K = 4, our lengths": queued(("laps_perception", "window")),
        "K = 4, our lengths, soft, width .3": queued(("laps_width", 0.3)),
    }
    return {**static, **following, **ours, "no queues": LAPS}


def servers(size: Size) -> dict[str, list[Load]]:
    """What the parts are tried on: one row; eight with little memory, one and two Steps ahead."""
    one = [Load("chat", seed, 200, 0.8) for seed in range(size.seeds)]
    two = [Load("chat", seed, 300, 0.9, 8, 2, 0.5) for seed in range(size.seeds)]
    shallow = [replace(load, depth=1) for load in two]
    return {"one row": one, "8 rows, memory 0.5": two, "the same, depth 1": shallow}


def shared(size: Size) -> list[Load]:
    """Three tenants, one of whom sends as much as three."""
    return [Load("chat", seed, 200, 0.9, tenants=3) for seed in range(few(size))]


def _waves(table: Table, size: Size) -> str:
    arms = wave_arms()
    columns = []
    for shape in WAVE_SHAPES:
        means = [ratio(table, waves(size, shape), arm, SRPT) for arm in arms.values()]
        best = min(means[: len(STATIC)])
        columns.append([f"{mean:.2f}, {100 * (mean / best - 1):+.0f} %" for mean in means])
    return _columns("mean over SRPT, regret to the best fixed K", arms, WAVE_SHAPES, columns)


def _ablations(table: Table, size: Size) -> str:
    columns = []
    for loads in servers(size).values():
        column = []
        for arm in ABLATIONS.values():
            often = total(table, loads, arm, "preemptions") / len(loads)
            moved = total(table, loads, arm, "moved") / len(loads)
            column.append(f"{ratio(table, loads, arm, LAPS):.2f}, {often:.2f}, {moved:.0f}")
        columns.append(column)
    head = "mean over LAPS-SD's, preemptions, tokens moved per request"
    return _columns(head, ABLATIONS, servers(size), columns)


def _tenants(table: Table, size: Size) -> str:
    loads, rows = shared(size), []
    for name, arm in TENANTS.items():
        mine = [table[load, arm] for load in loads]
        slow = [fmean(row.slowdowns[at] for row in mine) for at in range(3)]
        each = [fmean(row.tenant_slowdowns[at] for row in mine) for at in range(3)]
        cells = [ratio(table, loads, arm, FCFS), *slow, *each, jain(each)]
        rows.append([name, *(f"{cell:.2f}" for cell in cells)])
    heads = ["", "mean over FCFS", "slowdown p50", "p95", "p99", "busy tenant", "2nd", "3rd"]
    return grid([*heads, "Jain"], rows)


def jain(shares: Iterable[float]) -> float:
    """Jain's index of fairness: 1 where all are equal, 1/n where one has everything."""
    found = list(shares)
    return fsum(found) ** 2 / (len(found) * fsum(share * share for share in found))


def _columns(
    head: str, names: Iterable[str], heads: Iterable[str], columns: Iterable[list[str]]
) -> str:
    cells = zip(*columns, strict=True)
    return grid([head, *heads], [[name, *row] for name, row in zip(names, cells, strict=True)])
