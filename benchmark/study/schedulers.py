"""Compare scheduling policies in virtual time: the figures, and every run behind them.

Decides what is written; `figures` decides which workloads and variants belong to a figure. The
times of decisions are measured on this machine while no simulation runs.
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
    """Add the flags of size and output."""
    parser.add_argument("--quick", action="store_true", help="fewer seeds and shorter answers")
    parser.add_argument("--json", type=Path, help="file for rows and figures")
    parser.add_argument(
        "--plots", type=Path, help="folder for a plot of decision costs; needs matplotlib"
    )
    parser.add_argument("--processes", type=int, help="default: one per core")


def run(args: argparse.Namespace) -> int:
    """Simulate, print the figures, and write the requested files. Return the exit status."""
    start, size = time.perf_counter(), figures.QUICK if args.quick else figures.FULL
    decisions = {live: decision_costs.measure(live) for live in decision_costs.SIZES}
    rows = list(run_all(figures.tasks(size), args.processes))
    metrics = {
        **figures.compute_metrics({(row.workload, row.variant): row for row in rows}, size),
        **{
            f"next_batch_ms_{live}": 1e3 * decisions[live] for live in decision_costs.REPORTED_SIZES
        },
    }
    for name, value in metrics.items():
        print(f"{name:32} {value:8.4f}")
    print(f"{len(rows)} simulations in {time.perf_counter() - start:.1f} s")
    if args.json:
        report = {
            "quick": args.quick,
            "figures": metrics,
            "decision_seconds": decisions,
            "rows": [flatten(row) for row in rows],
        }
        args.json.write_text(_dump(report))
    if args.plots:
        _plot(decisions, args.plots)
    return 0


def _plot(decisions: Mapping[int, float], folder: Path) -> None:
    """Draw the cost of a decision against the number of live requests."""
    from matplotlib import pyplot  # an extra, only needed for plots

    from benchmark.study.plots import draw_decisions

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = pyplot.subplots(figsize=(5.6, 3.8))
    draw_decisions(axes, decisions)
    figure.tight_layout()
    figure.savefig(folder / "decisions.png", dpi=90)
    pyplot.close(figure)


def _dump(report: dict[str, Any]) -> str:
    """Return JSON with one row per line."""
    rows = ",\n".join(json.dumps(row) for row in report.pop("rows"))
    head = json.dumps(report, indent=1).removesuffix("\n}")
    return f'{head},\n "rows": [\n{rows}\n]}}\n'
