"""Compare scheduling policies in virtual time: the figures, and every run behind them.

Rule: decides what is written; which loads and arms belong to a figure is the business of `figures`.
The times of decisions are real ones of this machine, measured when no simulation runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.simulation.plans import flatten
from benchmark.simulation.runs import run_all
from benchmark.study import decision_costs, figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much, and where to."""
    parser.add_argument("--quick", action="store_true", help="fewer seeds and shorter answers")
    parser.add_argument("--json", type=Path, help="file for rows and figures")
    parser.add_argument(
        "--plots", type=Path, help="folder for a plot of decision costs; needs matplotlib"
    )
    parser.add_argument("--processes", type=int, help="default: one per core")


def run(args: argparse.Namespace) -> int:
    """Simulate, print, and write what was asked for; the exit status."""
    begun, size = time.perf_counter(), figures.QUICK if args.quick else figures.FULL
    decisions = {live: decision_costs.measure(live) for live in decision_costs.SIZES}
    rows = list(run_all(figures.tasks(size), args.processes))
    found = {
        **figures.compute_metrics({(row.workload, row.variant): row for row in rows}, size),
        **{
            f"next_batch_ms_{live}": 1e3 * decisions[live] for live in decision_costs.REPORTED_SIZES
        },
    }
    for name, value in found.items():
        print(f"{name:32} {value:8.4f}")
    print(f"{len(rows)} simulations in {time.perf_counter() - begun:.1f} s")
    if args.json:
        report = {
            "quick": args.quick,
            "figures": found,
            "decision_seconds": decisions,
            "rows": [flatten(row) for row in rows],
        }
        args.json.write_text(_dump(report))
    if args.plots:
        _plot(decisions, args.plots)
    return 0


def _plot(decisions: Mapping[int, float], folder: Path) -> None:
    """Cost of a decision against the number of live requests; the rest is `study`'s to draw."""
    from matplotlib import pyplot  # an extra: only who wants plots needs it

    from benchmark.study.plots import draw_decisions

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(5.6, 3.8))
    draw_decisions(axes, decisions)
    figure.tight_layout()
    figure.savefig(folder / "decisions.png", dpi=90)
    pyplot.close(figure)


def _dump(report: dict[str, Any]) -> str:
    """JSON with one row a line."""
    rows = ",\n".join(json.dumps(row) for row in report.pop("rows"))
    head = json.dumps(report, indent=1).removesuffix("\n}")
    return f'{head},\n "rows": [\n{rows}\n]}}\n'
