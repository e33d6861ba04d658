"""What the bound on waiting costs in mean latency: LAPS-SD with its default patience and without.

The same requests, arrivals and predictions are simulated twice, on one row and on eight, at the
costs of a model of 7B parameters: on the demo pair no request waits for so long. Figures:

- `ageing.mean_cost`, `ageing.worst_cost`: relative rise of mean latency, over all shapes and loads.
- `ageing.cost_SHAPE_RHO` and `ageing.cost_SHAPE_RHO_8`: of each pair, on one row and on eight.
- `ageing.requests`: requests simulated.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from benchmark.figures import publish
from benchmark.simulation.plans import PolicyVariant, SimulationResult, Workload
from benchmark.simulation.runs import run_all
from benchmark.study.figures import FULL, LAPS, QUICK, SHAPES

RHOS = (0.5, 0.8, 0.9)
PATIENT = PolicyVariant(LAPS.policy, LAPS.sigma, flags=(*LAPS.flags, ("laps_patience", 1e9)))
"""Without ageing."""
ROWS = (1, 8)

Pair = tuple[str, float, int]
"""Shape, rho and rows."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ageing`."""
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="fewer seeds and shorter answers")
    parser.add_argument("--processes", type=int, help="default: one per core")


def run(args: argparse.Namespace) -> int:
    """Simulate, print and write the figures."""
    loads = workloads(quick=args.quick)
    tasks = {load: (LAPS, PATIENT) for of_pair in loads.values() for load in of_pair}
    results = {(r.workload, r.variant): r for r in run_all(tasks, args.processes)}
    publish(figures(loads, results), args.json)
    return 0


def workloads(*, quick: bool) -> Mapping[Pair, Sequence[Workload]]:
    """The Poisson workloads of the study at each load."""
    size = QUICK if quick else FULL
    return {
        (shape, rho, rows): [
            replace(load, batch=rows, depth=min(rows, 2), costs="7b", count=load.count * rows // 2)
            for load in size.poisson(shape, rho)
        ]
        for shape in SHAPES
        for rho in RHOS
        for rows in ROWS
    }


def figures(
    loads: Mapping[Pair, Sequence[Workload]],
    results: Mapping[tuple[Workload, PolicyVariant], SimulationResult],
) -> dict[str, float]:
    """The figures of the head of this file."""
    costs = {pair: _cost(of_pair, results) for pair, of_pair in loads.items()}
    named = {_name(*pair): cost for pair, cost in costs.items()}
    requests = sum(load.count for of_pair in loads.values() for load in of_pair)
    return {
        "ageing.mean_cost": fmean(costs.values()),
        "ageing.worst_cost": max(costs.values()),
        **named,
        "ageing.requests": requests,
    }


def _cost(
    loads: Sequence[Workload],
    results: Mapping[tuple[Workload, PolicyVariant], SimulationResult],
) -> float:
    aged, patient = (
        fmean(results[load, variant].mean for load in loads) for variant in (LAPS, PATIENT)
    )
    return aged / patient - 1


def _name(shape: str, rho: float, rows: int) -> str:
    return f"ageing.cost_{shape}_{rho:g}" + ("" if rows == 1 else f"_{rows}")
