"""What cannot be had: how near LAPS-SD comes to whoever knows more, in the mean and in the tail.

Rule: names loads and arms, and says what came of them. Loads are those of the figures, so that both
speak of the same runs; beside them the same with drafts of a fixed length, where the service of a
request does not depend on when it is served and the bounds are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from benchmark.simulation.plans import PolicyVariant, Workload
from benchmark.study.figures import (
    FCFS,
    LAPS,
    RHOS,
    SHAPES,
    SRPT,
    ResultTable,
    StudySize,
    column_sum,
    mean_ratio,
    ratio,
)
from benchmark.study.parts import add_simulations
from benchmark.study.tables import interval, markdown_table

SIGMAS = (0.3, 0.6, 1.0)
TAIL_SETTINGS = (0.0, 0.3, 0.5, 0.65, 0.8)
"""Of the tail knob."""


def tasks(size: StudySize) -> dict[Workload, list[PolicyVariant]]:
    """The runs of both questions, without doubles."""
    wanted: dict[Workload, list[PolicyVariant]] = {}
    knowing = [SRPT, *(arm for sigma in SIGMAS for arm in _knowledge_variants(sigma))]
    dials = [
        FCFS,
        LAPS,
        *(
            turn(share)
            for turn in (tail_variant, clairvoyant_tail_variant)
            for share in TAIL_SETTINGS
        ),
    ]
    for shape in SHAPES:
        for rho in RHOS:
            add_simulations(wanted, ((load, knowing) for load in size.poisson(shape, rho)))
        add_simulations(wanted, ((load, knowing) for load in fixed_draft_workloads(size, shape)))
        add_simulations(wanted, ((load, dials) for load in size.poisson(shape, RHOS[0])))
    return wanted


def tables(table: ResultTable, size: StudySize) -> dict[str, str]:
    """By the names that the page gives them."""
    return {"knowledge": _knowledge_table(table, size), "tails": _tails_table(table, size)}


def fixed_draft_workloads(size: StudySize, shape: str) -> list[Workload]:
    """The loads at the lower rho with drafts of the longest length."""
    return [replace(load, drafts="longest") for load in size.poisson(shape, RHOS[0])]


def tail_variant(share: float) -> PolicyVariant:
    """LAPS-SD with its tail knob turned so far."""
    return replace(LAPS, flags=(("laps_tail", share),)) if share else LAPS


def clairvoyant_tail_variant(share: float) -> PolicyVariant:
    """The same order with true sizes."""
    return replace(SRPT, flags=(("laps_tail", share),)) if share else SRPT


def tail_tradeoff(
    table: ResultTable, size: StudySize, shape: str, variant_of: Callable[[float], PolicyVariant]
) -> list[tuple[float, float]]:
    """Along the dial: percent of LAPS-SD's mean that it costs, and p99 over that of FCFS."""
    loads, found = size.poisson(shape, RHOS[0]), []
    for arm in map(variant_of, TAIL_SETTINGS):
        p99 = column_sum(table, loads, arm, "p99") / column_sum(table, loads, FCFS, "p99")
        found.append((100 * (ratio(table, loads, arm, LAPS) - 1), p99))
    return found


def _knowledge_variants(sigma: float) -> tuple[PolicyVariant, PolicyVariant]:
    """Ours, and whoever knows all but the length."""
    return replace(LAPS, sigma=sigma), PolicyVariant("informed", sigma=sigma)


def _knowledge_table(table: ResultTable, size: StudySize) -> str:
    rows = []
    for shape in SHAPES:
        for sigma in SIGMAS:
            arms = _knowledge_variants(sigma)
            shipped = [f"{mean_ratio(table, size, shape, arm, SRPT):.3f}" for arm in arms]
            pairs = [_cell(table, fixed_draft_workloads(size, shape), arm) for arm in arms]
            rows.append([shape, f"{sigma}", *shipped, *pairs])
    heads = ["workload", "sigma", "LAPS-SD", "all but the length"]
    return markdown_table(
        [*heads, "LAPS-SD, fixed drafts", "all but the length, fixed drafts"], rows
    )


def _cell(table: ResultTable, loads: Sequence[Workload], arm: PolicyVariant) -> str:
    spread = interval([ratio(table, [load], arm, SRPT) for load in loads])
    value = f"{ratio(table, loads, arm, SRPT):.3f}"
    return value + (f" ({spread[0]:.2f}..{spread[1]:.2f})" if spread else "")


def _tails_table(table: ResultTable, size: StudySize) -> str:
    rows = []
    for shape in SHAPES:
        for name, turn in (("LAPS-SD", tail_variant), ("true sizes", clairvoyant_tail_variant)):
            points = tail_tradeoff(table, size, shape, turn)
            rows.append([shape, name, *(f"{mean:+.0f} %, {p99:.2f}" for mean, p99 in points)])
    return markdown_table(
        ["mean over LAPS-SD's, p99 over FCFS", "", *(f"knob {d:g}" for d in TAIL_SETTINGS)], rows
    )
