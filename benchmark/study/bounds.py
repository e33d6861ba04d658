"""Bounds: how close LAPS-SD comes to policies that know more, in the mean and in the tail.

Names workloads and variants, and makes tables of their results. Workloads are those of the figures,
so that both are about the same runs, and the same with drafts of a fixed length, for which the
service of a request does not depend on when it is served and the bounds are exact.
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
"""Values of the tail parameter."""


def tasks(size: StudySize) -> dict[Workload, list[PolicyVariant]]:
    """Return the runs for both questions, without duplicates."""
    wanted: dict[Workload, list[PolicyVariant]] = {}
    informed = [SRPT, *(variant for sigma in SIGMAS for variant in _knowledge_variants(sigma))]
    tails = [
        FCFS,
        LAPS,
        *(
            variant_of(tail)
            for variant_of in (tail_variant, clairvoyant_tail_variant)
            for tail in TAIL_SETTINGS
        ),
    ]
    for shape in SHAPES:
        for rho in RHOS:
            add_simulations(wanted, ((load, informed) for load in size.poisson(shape, rho)))
        add_simulations(wanted, ((load, informed) for load in fixed_draft_workloads(size, shape)))
        add_simulations(wanted, ((load, tails) for load in size.poisson(shape, RHOS[0])))
    return wanted


def tables(table: ResultTable, size: StudySize) -> dict[str, str]:
    """Return the tables by their names in the page."""
    return {"knowledge": _knowledge_table(table, size), "tails": _tails_table(table, size)}


def fixed_draft_workloads(size: StudySize, shape: str) -> list[Workload]:
    """Return the workloads at the lower rho with drafts of the maximum length."""
    return [replace(load, drafts="longest") for load in size.poisson(shape, RHOS[0])]


def tail_variant(tail: float) -> PolicyVariant:
    """Return LAPS-SD with this tail parameter."""
    return replace(LAPS, flags=(("laps_tail", tail),)) if tail else LAPS


def clairvoyant_tail_variant(tail: float) -> PolicyVariant:
    """Return the same order with true sizes."""
    return replace(SRPT, flags=(("laps_tail", tail),)) if tail else SRPT


def tail_tradeoff(
    table: ResultTable, size: StudySize, shape: str, variant_of: Callable[[float], PolicyVariant]
) -> list[tuple[float, float]]:
    """Return by tail setting its cost in percent of LAPS-SD's mean, and p99 over FCFS."""
    loads, points = size.poisson(shape, RHOS[0]), []
    for variant in map(variant_of, TAIL_SETTINGS):
        p99 = column_sum(table, loads, variant, "p99") / column_sum(table, loads, FCFS, "p99")
        points.append((100 * (ratio(table, loads, variant, LAPS) - 1), p99))
    return points


def _knowledge_variants(sigma: float) -> tuple[PolicyVariant, PolicyVariant]:
    """Return LAPS-SD, and the policy that knows all but the length."""
    return replace(LAPS, sigma=sigma), PolicyVariant("informed", sigma=sigma)


def _knowledge_table(table: ResultTable, size: StudySize) -> str:
    rows = []
    for shape in SHAPES:
        for sigma in SIGMAS:
            variants = _knowledge_variants(sigma)
            shipped = [
                f"{mean_ratio(table, size, shape, variant, SRPT):.3f}" for variant in variants
            ]
            pairs = [
                _cell(table, fixed_draft_workloads(size, shape), variant) for variant in variants
            ]
            rows.append([shape, f"{sigma}", *shipped, *pairs])
    heads = ["workload", "sigma", "LAPS-SD", "all but the length"]
    return markdown_table(
        [*heads, "LAPS-SD, fixed drafts", "all but the length, fixed drafts"], rows
    )


def _cell(table: ResultTable, loads: Sequence[Workload], variant: PolicyVariant) -> str:
    spread = interval([ratio(table, [load], variant, SRPT) for load in loads])
    value = f"{ratio(table, loads, variant, SRPT):.3f}"
    return value + (f" ({spread[0]:.2f}..{spread[1]:.2f})" if spread else "")


def _tails_table(table: ResultTable, size: StudySize) -> str:
    rows = []
    for shape in SHAPES:
        for name, variant_of in (
            ("LAPS-SD", tail_variant),
            ("true sizes", clairvoyant_tail_variant),
        ):
            points = tail_tradeoff(table, size, shape, variant_of)
            rows.append([shape, name, *(f"{mean:+.0f} %, {p99:.2f}" for mean, p99 in points)])
    return markdown_table(
        ["mean over LAPS-SD's, p99 over FCFS", "", *(f"tail {tail:g}" for tail in TAIL_SETTINGS)],
        rows,
    )
