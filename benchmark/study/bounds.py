"""What cannot be had: how near LAPS-SD comes to whoever knows more, in the mean and in the tail.

Rule: names loads and arms, and says what came of them. Loads are those of the figures, so that both
speak of the same runs; beside them the same with drafts of a fixed length, where the service of a
request does not depend on when it is served and the bounds are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmark.simulation.plans import Arm, Load
from benchmark.study.figures import FCFS, LAPS, RHOS, SHAPES, SRPT, Size, Table, over, ratio, total
from benchmark.study.parts import merge
from benchmark.study.tables import grid, interval

SIGMAS = (0.3, 0.6, 1.0)
DIAL = (0.0, 0.3, 0.5, 0.65, 0.8)
"""Of the tail knob."""


def tasks(size: Size) -> dict[Load, list[Arm]]:
    """The runs of both questions, without doubles."""
    wanted: dict[Load, list[Arm]] = {}
    knowing = [SRPT, *(arm for sigma in SIGMAS for arm in _told(sigma))]
    dials = [FCFS, LAPS, *(turn(share) for turn in (tail, clairvoyant_tail) for share in DIAL)]
    for shape in SHAPES:
        for rho in RHOS:
            merge(wanted, ((load, knowing) for load in size.poisson(shape, rho)))
        merge(wanted, ((load, knowing) for load in fixed(size, shape)))
        merge(wanted, ((load, dials) for load in size.poisson(shape, RHOS[0])))
    return wanted


def tables(table: Table, size: Size) -> dict[str, str]:
    """By the names that the page gives them."""
    return {"knowledge": _knowledge(table, size), "tails": _tails(table, size)}


def fixed(size: Size, shape: str) -> list[Load]:
    """The loads at the lower rho with drafts of the longest length."""
    return [replace(load, drafts="longest") for load in size.poisson(shape, RHOS[0])]


def tail(share: float) -> Arm:
    """LAPS-SD with its tail knob turned so far."""
    return replace(LAPS, flags=(("laps_tail", share),)) if share else LAPS


def clairvoyant_tail(share: float) -> Arm:
    """The same order with true sizes."""
    return replace(SRPT, flags=(("laps_tail", share),)) if share else SRPT


def tails(
    table: Table, size: Size, shape: str, turn: Callable[[float], Arm]
) -> list[tuple[float, float]]:
    """Along the dial: percent of LAPS-SD's mean that it costs, and p99 over that of FCFS."""
    loads, found = size.poisson(shape, RHOS[0]), []
    for arm in map(turn, DIAL):
        p99 = total(table, loads, arm, "p99") / total(table, loads, FCFS, "p99")
        found.append((100 * (ratio(table, loads, arm, LAPS) - 1), p99))
    return found


def _told(sigma: float) -> tuple[Arm, Arm]:
    """Ours, and whoever knows all but the length."""
    return replace(LAPS, sigma=sigma), Arm("informed", sigma=sigma)


def _knowledge(table: Table, size: Size) -> str:
    rows = []
    for shape in SHAPES:
        for sigma in SIGMAS:
            arms = _told(sigma)
            shipped = [f"{over(table, size, shape, arm, SRPT):.3f}" for arm in arms]
            pairs = [_cell(table, fixed(size, shape), arm) for arm in arms]
            rows.append([shape, f"{sigma}", *shipped, *pairs])
    heads = ["workload", "sigma", "LAPS-SD", "all but the length"]
    return grid([*heads, "LAPS-SD, fixed drafts", "all but the length, fixed drafts"], rows)


def _cell(table: Table, loads: Sequence[Load], arm: Arm) -> str:
    spread = interval([ratio(table, [load], arm, SRPT) for load in loads])
    value = f"{ratio(table, loads, arm, SRPT):.3f}"
    return value + (f" ({spread[0]:.2f}..{spread[1]:.2f})" if spread else "")


def _tails(table: Table, size: Size) -> str:
    rows = []
    for shape in SHAPES:
        for name, turn in (("LAPS-SD", tail), ("true sizes", clairvoyant_tail)):
            points = tails(table, size, shape, turn)
            rows.append([shape, name, *(f"{mean:+.0f} %, {p99:.2f}" for mean, p99 in points)])
    return grid(["mean over LAPS-SD's, p99 over FCFS", "", *(f"knob {d:g}" for d in DIAL)], rows)
