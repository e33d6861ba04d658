"""Regenerate docs/study.md: simulate everything, draw its plots, fill in its tables and numbers.

Decides only where things come from and go to. `--rows` keeps the results of all simulations, and a
later run with the same file simulates only what it lacks, so that a change of presentation costs
nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmark.simulation.plans import PolicyVariant, SimulationResult, Workload, flatten, unflatten
from benchmark.simulation.runs import run_all
from benchmark.study import bounds, decision_costs, figures, live, page, parts, variants
from benchmark.study.figures import ResultTable, StudySize

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of size, input and output."""
    parser.add_argument("--quick", action="store_true", help="fewer seeds and shorter answers")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of study.md and study/")
    parser.add_argument("--rows", type=Path, help="file that keeps the results of simulations")
    parser.add_argument("--processes", type=int, help="default: one per core")


def run(args: argparse.Namespace) -> int:
    """Simulate, draw the plots, fill in the page. Return the exit status."""
    from benchmark.study.plots import StudyPlots
    from benchmark.study.tables import StudyTables

    start, size = time.perf_counter(), figures.QUICK if args.quick else figures.FULL
    decisions = {live: decision_costs.measure(live) for live in decision_costs.SIZES}
    table = simulate_missing(size, args.rows, args.processes)
    metrics = {
        **figures.compute_metrics(table, size),
        **{f"next_batch_ms_{n}": 1e3 * decisions[n] for n in decision_costs.REPORTED_SIZES},
    }
    StudyPlots(table, size, decisions).draw(args.docs / "study")
    tables = {
        **StudyTables(table, size, metrics).all(),
        **bounds.tables(table, size),
        **variants.tables(table, size),
        "live": live.table(),
    }
    text = (args.docs / "study.md").read_text()
    (args.docs / "study.md").write_text(page.render(text, tables, metrics))
    print(f"{len(table)} simulations, {time.perf_counter() - start:.0f} s")
    return 0


def simulate_missing(size: StudySize, kept: Path | None, processes: int | None) -> ResultTable:
    """Return the results of all runs; only those that the file `kept` lacks are simulated."""
    wanted = figures.tasks(size)
    for more in (parts, bounds, variants):
        parts.add_simulations(wanted, more.tasks(size).items())
    table = _load_rows(kept)
    missing = _missing(wanted, table)
    for count, row in enumerate(run_all(missing, processes), 1):
        table[row.workload, row.variant] = row
        if count % 100 == 0:
            print(f"{count} of {sum(map(len, missing.values()))} simulations", flush=True)
    if kept:
        kept.write_text("".join(json.dumps(flatten(row)) + "\n" for row in table.values()))
    return table


def _load_rows(kept: Path | None) -> dict[tuple[Workload, PolicyVariant], SimulationResult]:
    if kept is None or not kept.exists():
        return {}
    rows = (unflatten(json.loads(line)) for line in kept.read_text().splitlines())
    return {(row.workload, row.variant): row for row in rows}


def _missing(
    wanted: Mapping[Workload, Sequence[PolicyVariant]], known: ResultTable
) -> dict[Workload, list[PolicyVariant]]:
    left = {
        load: [variant for variant in wanted_variants if (load, variant) not in known]
        for load, wanted_variants in wanted.items()
    }
    return {load: wanted_variants for load, wanted_variants in left.items() if wanted_variants}
