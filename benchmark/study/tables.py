"""The study's numbers as Markdown tables: ratios of means over seeds, with 95 % intervals.

An interval is of the mean logarithm of the seeds' own ratios, by Student's t; with fewer than
three seeds there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import exp, log
from statistics import fmean, stdev

from benchmark.simulation import workloads
from benchmark.simulation.plans import PolicyVariant, Workload
from benchmark.simulation.probe import PROGRESS
from benchmark.study import figures, parts, stability
from benchmark.study.figures import (
    FCFS,
    LAPS,
    LAS,
    PAPER,
    SHAPES,
    SJF,
    SRPT,
    ResultTable,
    StudySize,
    column_sum,
    ratio,
)
from benchmark.study.targets import TARGETS

T_95 = (4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t for 2..9 degrees of freedom; 2 beyond."""
POLICY_NAMES = {
    "fcfs": "FCFS",
    "las": "LAS",
    "sjf": "LP-SJF",
    "sjf-preemptive": "LP-SJF preemptive",
    "e-srpt": "E-SRPT",
    "laps-sd-paper": "LAPS-SD, the paper's",
    "laps-sd": "LAPS-SD",
    "srpt": "SRPT, clairvoyant",
}


def interval(ratios: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the geometric mean of paired ratios; None for too few."""
    if len(ratios) < 3:
        return None
    logs, free = [log(r) for r in ratios], len(ratios) - 1
    half_width = (T_95[free - 2] if free < len(T_95) + 2 else 2.0) * stdev(logs) / len(logs) ** 0.5
    return exp(fmean(logs) - half_width), exp(fmean(logs) + half_width)


class StudyTables:
    """The tables of one study."""

    def __init__(self, table: ResultTable, size: StudySize, metrics: Mapping[str, float]) -> None:
        """`metrics`: the figures by name."""
        self._table, self._size, self._metrics = table, size, metrics
        self._seeds = parts.reduced_seeds(size)

    def all(self) -> dict[str, str]:
        """Return every table by name."""
        tables: dict[str, Callable[[], str]] = {
            "targets": self._targets,
            "bound": self._bound,
            "policies": self._policies,
            "levels": self._levels,
            "batches": self._batches,
            "memory": self._memory,
            "courses": self._patterns,
            "detection": self._detection,
            "knobs": self._knobs,
            "errors": self._errors,
        }
        return {name: make() for name, make in tables.items()}

    def _targets(self) -> str:
        rows = []
        for name, (sign, target) in TARGETS.items():
            value = self._metrics[name]
            met = value <= target if sign == "<=" else value >= target
            rows.append(
                [f"`{name}`", f"{value:.3f}", f"{sign} {target:g}", "met" if met else "**missed**"]
            )
        return markdown_table(["figure", "measured", "target", ""], rows)

    def _bound(self) -> str:
        """Gains of SRPT and of the paper's algorithm over each baseline."""
        rows = []
        for shape in SHAPES:
            for rho in figures.RHOS:
                loads = parts.poisson(self._size, shape, rho)
                gains = [
                    1 - ratio(self._table, loads, SRPT, variant) for variant in (SJF, LAS, FCFS)
                ]
                paper = [
                    1 - ratio(self._table, loads, PAPER, variant) for variant in (SJF, LAS, FCFS)
                ]
                cells = [
                    f"{100 * g:.0f} % / {100 * p:.0f} %" for g, p in zip(gains, paper, strict=True)
                ]
                rows.append([shape, f"{rho}", *cells])
        return markdown_table(["workload", "rho", "over LP-SJF", "over LAS", "over FCFS"], rows)

    def _policies(self) -> str:
        rows = []
        for workload in parts.SHAPES_WITH_DEMO:
            for rho in parts.RHOS:
                loads = parts.poisson(self._size, workload, rho)
                for variant in parts.POLICIES:
                    times = [
                        column_sum(self._table, loads, variant, c) / len(loads)
                        for c in ("mean", "p50", "p99")
                    ]
                    cells = [f"{1e3 * t:.0f}" for t in times]
                    rows.append(
                        [
                            workload,
                            f"{rho}",
                            POLICY_NAMES[variant.policy],
                            *cells,
                            self._ratio_with_interval(loads, variant, SRPT),
                        ]
                    )
        return markdown_table(
            ["workload", "rho", "policy", "mean ms", "p50 ms", "p99 ms", "mean over SRPT"], rows
        )

    def _ratio_with_interval(
        self, loads: Sequence[Workload], variant: PolicyVariant, baseline: PolicyVariant
    ) -> str:
        """Return a ratio of means with its interval."""
        value = ratio(self._table, loads, variant, baseline)
        spread = interval([ratio(self._table, [load], variant, baseline) for load in loads])
        return f"{value:.2f}" + (
            f" ({spread[0]:.2f}..{spread[1]:.2f})" if spread and variant != baseline else ""
        )

    def _levels(self) -> str:
        rows = []
        for name in parts.LEVEL_WORKLOADS:
            loads = parts.level_workloads(name, self._seeds)
            variants = [*map(parts.paper_with_queues, parts.LEVELS), LAPS]
            rows.append(
                [name, *(f"{ratio(self._table, loads, variant, SRPT):.2f}" for variant in variants)]
            )
        return markdown_table(
            ["load", *(f"K = {k}" for k in parts.LEVELS), "LAPS-SD, no queues"], rows
        )

    def _batches(self) -> str:
        rows = []
        for rho in (0.9, None):
            for batch in parts.BATCHES:
                loads = parts.batch_workloads(batch, rho, self._seeds)
                means = [
                    ratio(self._table, loads, variant, FCFS) for variant in (LAS, SJF, LAPS, SRPT)
                ]
                rate = column_sum(self._table, loads, LAPS, "throughput") / column_sum(
                    self._table, loads, FCFS, "throughput"
                )
                first = ratio_of(self._table, loads, LAPS, FCFS, "first_token")
                each = ratio_of(self._table, loads, LAPS, FCFS, "per_token")
                often = column_sum(self._table, loads, LAPS, "preemptions") / len(loads)
                name = f"Poisson {rho}" if rho else "burst of 30 per row"
                rows.append(
                    [name, str(batch), *(f"{m:.2f}" for m in (*means, rate, first, each, often))]
                )
        heads = [
            "load",
            "rows",
            "LAS",
            "LP-SJF",
            "LAPS-SD",
            "SRPT",
            "throughput",
            "TTFT",
            "TPOT",
            "preemptions",
        ]
        return markdown_table(heads, rows)

    def _memory(self) -> str:
        rows = []
        for name, variant in parts.MEMORY_VARIANTS.items():
            cells = []
            for memory in parts.MEMORIES:
                loads = parts.memory_workloads(memory, self._seeds)
                moved = column_sum(self._table, loads, variant, "moved") / len(loads)
                cells.append(f"{ratio(self._table, loads, variant, FCFS):.2f}, {moved:.0f}")
            rows.append([name, *cells])
        heads = ["plenty" if m is None else f"{m:g} of demand" for m in parts.MEMORIES]
        return markdown_table(["mean over FCFS, tokens moved", *heads], rows)

    def _patterns(self) -> str:
        rows = []
        for name, variant in parts.pattern_variants().items():
            cells = []
            for pattern in workloads.ACCEPTANCE_PATTERNS:
                loads = parts.pattern_workloads(pattern, self._seeds)
                errors = [
                    fmean(self._table[load, variant].errors[PROGRESS.index(p)] for load in loads)
                    for p in (0.25, 0.5, 0.75)
                ]
                shares = ", ".join(f"{100 * e:.0f}" for e in errors)
                cells.append(f"{ratio(self._table, loads, variant, SRPT):.2f}; {shares} %")
            rows.append([name, *cells])
        return markdown_table(
            ["mean over SRPT; error of T at 25, 50, 75 %", *workloads.ACCEPTANCE_PATTERNS], rows
        )

    def _detection(self) -> str:
        rows = []
        traces = workloads.traces(workloads.SHAPES["chat"], 400, 0)
        for kind in stability.MEAN_KINDS:
            for window, deviation in ((3, 0.08), (4, 0.08), (8, 0.08), (8, 0.02), (12, 0.05)):
                detection = stability.evaluate(traces, kind, window, deviation)
                rows.append(
                    [
                        kind,
                        str(window),
                        f"{deviation}",
                        f"{100 * detection.never:.0f} %",
                        f"{100 * detection.false:.0f} %",
                        f"{detection.delay:+.0f}",
                        f"{100 * detection.error:.0f} %",
                    ]
                )
        return markdown_table(
            ["mean", "window", "delta", "never stable", "false", "delay, rounds", "error of T"],
            rows,
        )

    def _knobs(self) -> str:
        rows = []
        for name, variant in parts.knob_variants().items():
            cells = [
                f"{ratio(self._table, parts.knob_workloads(s, self._seeds), variant, SRPT):.2f}"
                for s in ("chat", "code")
            ]
            rows.append([name, *cells])
        return markdown_table(["the paper's algorithm, mean over SRPT", "chat", "code"], rows)

    def _errors(self) -> str:
        rows = []
        for shape in SHAPES:
            for name, variant in (("true", figures.LAPS_0), ("sigma 0.3", LAPS)):
                loads = self._size.poisson(shape, 0.8)
                cells = [
                    fmean(self._table[load, variant].errors[at] for load in loads)
                    for at in range(len(PROGRESS))
                ]
                rows.append([shape, name, *(f"{100 * c:.1f} %" for c in cells)])
        return markdown_table(["workload", "lengths", *(f"at {p:.0%}" for p in PROGRESS)], rows)


def ratio_of(
    table: ResultTable,
    loads: Sequence[Workload],
    variant: PolicyVariant,
    baseline: PolicyVariant,
    column: str,
) -> float:
    """Return the ratio of any column."""
    return column_sum(table, loads, variant, column) / column_sum(table, loads, baseline, column)


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
