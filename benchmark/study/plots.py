"""The study's plots: one question per plot, and the same colour for a policy in all of them.

Decides the presentation only. matplotlib is an extra that only this module needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmark.simulation import workloads
from benchmark.simulation.plans import PolicyVariant
from benchmark.simulation.probe import PROGRESS
from benchmark.study import bounds, parts, stability
from benchmark.study.figures import (
    FCFS,
    LAPS,
    LAPS_0,
    LAS,
    PAPER,
    SHAPES,
    SJF,
    SRPT,
    ResultTable,
    StudySize,
    ratio,
)

matplotlib.use("Agg")

COLOURS = {
    "fcfs": ("FCFS", "#7f7f7f"),
    "las": ("LAS", "#bcbd22"),
    "sjf": ("LP-SJF", "#1f77b4"),
    "laps-sd-paper": ("LAPS-SD, the paper's", "#ff7f0e"),
    "laps-sd": ("LAPS-SD", "#d62728"),
    "srpt": ("SRPT, clairvoyant", "#2ca02c"),
}
RESULTS = Path(__file__).resolve().parent.parent / "results"


class StudyPlots:
    """Draws the plots of one study into a folder."""

    def __init__(self, table: ResultTable, size: StudySize, decisions: Mapping[int, float]) -> None:
        """`decisions`: seconds of one `next_batch` by live requests."""
        self._table, self._size, self._decisions = table, size, decisions
        self._seeds = parts.reduced_seeds(size)

    def draw(self, folder: Path) -> None:
        """Draw every plot as a PNG of its name."""
        folder.mkdir(parents=True, exist_ok=True)
        plots: dict[str, tuple[int, Callable[[Sequence[Axes]], None]]] = {
            "policies": (3, self._policies),
            "tails": (1, self._tails),
            "bursts": (3, self._bursts),
            "levels": (1, self._levels),
            "preemption": (1, self._preemption),
            "errors": (3, self._errors),
            "batches": (2, self._batches),
            "detection": (3, self._detection),
            "courses": (1, self._patterns),
            "decisions": (1, self._decision_costs),
        }
        for name, (columns, draw) in plots.items():
            figure, axes = pyplot.subplots(
                1, columns, figsize=(4.2 * columns + 1.4 * (columns == 1), 3.8), squeeze=False
            )
            draw(axes[0])
            figure.tight_layout()
            figure.savefig(folder / f"{name}.png", dpi=90)
            pyplot.close(figure)

    def _policies(self, axes: Sequence[Axes]) -> None:
        """Mean latency over clairvoyant SRPT, by load."""
        for ax, shape in zip(axes, SHAPES, strict=True):
            for variant in (FCFS, LAS, SJF, PAPER, LAPS):
                ratios = [
                    ratio(self._table, parts.poisson(self._size, shape, rho), variant, SRPT)
                    for rho in parts.RHOS
                ]
                _plot_line(ax, variant, range(len(parts.RHOS)), ratios)
            ax.axhline(1, color=COLOURS["srpt"][1], linestyle="--")
            ax.set_yscale("log")
            ax.set_yticks([1, 1.25, 1.5, 2, 3, 4], ["1", "1.25", "1.5", "2", "3", "4"])
            ax.minorticks_off()
            ax.set_xticks(range(len(parts.RHOS)), [str(rho) for rho in parts.RHOS])
            _label_axes(ax, shape, "rho", "mean latency over SRPT", axes)

    def _tails(self, axes: Sequence[Axes]) -> None:
        """p99 over FCFS against the cost in LAPS-SD's mean, along the tail parameter."""
        for shape in SHAPES:
            points = bounds.tail_tradeoff(self._table, self._size, shape, bounds.tail_variant)
            [line] = axes[0].plot(*zip(*points, strict=True), "o-", markersize=4, label=shape)
            best = bounds.tail_tradeoff(
                self._table, self._size, shape, bounds.clairvoyant_tail_variant
            )
            axes[0].plot(*zip(*best, strict=True), "*:", color=line.get_color())
        axes[0].plot([10, 10, -25], [1, 1.3, 1.3], "--", color="black", linewidth=1)
        title = "rho 0.8; stars: the same with true sizes; dashed: target"
        _label_axes(axes[0], title, "mean over LAPS-SD's, %", "p99 over FCFS", axes)

    def _bursts(self, axes: Sequence[Axes]) -> None:
        """Mean latency by number of requests that come at once."""
        for ax, shape in zip(axes, SHAPES, strict=True):
            for variant in (FCFS, LAS, SJF, PAPER, LAPS, SRPT):
                means = [
                    fmean(
                        self._table[load, variant].mean for load in self._size.burst(shape, count)
                    )
                    for count in self._size.bursts
                ]
                _plot_line(ax, variant, self._size.bursts, means)
            _label_axes(ax, shape, "requests at once", "mean latency, s", axes)

    def _levels(self, axes: Sequence[Axes]) -> None:
        """The paper's algorithm by number of queues."""
        for name in parts.LEVEL_WORKLOADS:
            loads = parts.level_workloads(name, self._seeds)
            ratios = [
                ratio(self._table, loads, parts.paper_with_queues(k), SRPT) for k in parts.LEVELS
            ]
            [line] = axes[0].plot(parts.LEVELS, ratios, marker="o", label=f"the paper's, {name}")
            without_queues = ratio(self._table, loads, LAPS, SRPT)
            axes[0].axhline(without_queues, color=line.get_color(), linestyle=":", linewidth=1)
        _label_axes(
            axes[0], "chat; dotted: LAPS-SD without queues", "queues K", "mean over SRPT", axes
        )

    def _preemption(self, axes: Sequence[Axes]) -> None:
        """Measured on the engine, not simulated."""
        figures = json.loads((RESULTS / "preemption.json").read_text())["figures"]
        held = (100, 200, 300, 400, 500)
        for kind in ("keep", "swap", "recompute"):
            shares = [100 * figures[f"preemption.{kind}.{tokens}"] for tokens in held]
            axes[0].plot(held, shares, marker="o", label=kind)
        axes[0].plot([500], [14], "kx", markersize=9, label="the paper, kind unknown")
        _label_axes(
            axes[0], "one preemption, demo pair", "tokens held", "% of service until then", axes
        )

    def _errors(self, axes: Sequence[Axes]) -> None:
        """Of the estimated execution time, by progress."""
        for ax, shape in zip(axes, SHAPES, strict=True):
            for variant, label, style in ((LAPS_0, "true length", "-"), (LAPS, "sigma 0.3", "--")):
                loads = self._size.poisson(shape, 0.8)
                columns = range(len(PROGRESS))
                errors = [
                    100 * fmean(self._table[load, variant].errors[at] for load in loads)
                    for at in columns
                ]
                ax.plot(PROGRESS, errors, style, marker="o", color="#d62728", label=label)
            ax.plot([0.25, 0.75], [15, 6.84], "k_", markersize=16, label="target")
            ax.set_ylim(0, 45)
            _label_axes(ax, shape, "share of the answer", "error of T, %", axes)

    def _batches(self, axes: Sequence[Axes]) -> None:
        """Mean latency over FCFS by rows."""
        titles = {0.9: "Poisson, rho 0.9", None: "30 requests per row at once"}
        for ax, (rho, title) in zip(axes, titles.items(), strict=True):
            for variant in (LAS, SJF, LAPS, SRPT):
                ratios = [
                    ratio(
                        self._table, parts.batch_workloads(batch, rho, self._seeds), variant, FCFS
                    )
                    for batch in parts.BATCHES
                ]
                _plot_line(ax, variant, range(len(parts.BATCHES)), ratios)
            ax.axhline(1, color=COLOURS["fcfs"][1], linestyle="--")
            ax.set_xticks(range(len(parts.BATCHES)), [str(batch) for batch in parts.BATCHES])
            _label_axes(ax, title, "rows per Step", "mean latency over FCFS", axes)

    def _detection(self, axes: Sequence[Axes]) -> None:
        """Requests that a stability rule misses, against wrong detections; offline, chat."""
        traces = workloads.traces(workloads.SHAPES["chat"], 400, 0)
        for ax, kind in zip(axes, stability.MEAN_KINDS, strict=True):
            for deviation in stability.DEVIATIONS:
                detections = [
                    stability.evaluate(traces, kind, w, deviation) for w in stability.WINDOWS
                ]
                ax.plot(
                    [100 * one.never for one in detections],
                    [100 * one.false for one in detections],
                    marker="o",
                    label=f"delta {deviation}",
                )
            ax.set_xlim(0, 100)
            ax.set_ylim(0, 60)
            _label_axes(ax, f"{kind} mean", "never stable, %", "stable but wrong, %", axes)

    def _patterns(self, axes: Sequence[Axes]) -> None:
        """Mean over SRPT if acceptance changes."""
        variants = parts.pattern_variants()
        for position, (name, variant) in enumerate(variants.items()):
            ratios = [
                ratio(self._table, parts.pattern_workloads(pattern, self._seeds), variant, SRPT)
                for pattern in workloads.ACCEPTANCE_PATTERNS
            ]
            at = [index + 0.09 * (position - len(variants) / 2) for index in range(len(ratios))]
            axes[0].bar(at, ratios, 0.085, label=name)
        axes[0].set_ylim(0.9, 1.5 * axes[0].get_ylim()[1])
        axes[0].set_xticks(range(len(workloads.ACCEPTANCE_PATTERNS)), workloads.ACCEPTANCE_PATTERNS)
        _label_axes(axes[0], "chat, rho 0.8", "acceptance pattern", "mean latency over SRPT", axes)

    def _decision_costs(self, axes: Sequence[Axes]) -> None:
        draw_decisions(axes[0], self._decisions)


def draw_decisions(ax: Axes, decisions: Mapping[int, float]) -> None:
    """Draw the milliseconds of `next_batch` against the number of live requests."""
    sizes = list(decisions)
    ax.loglog(sizes, [1e3 * decisions[n] for n in sizes], marker="o", label="one next_batch")
    ax.plot([256, 10_000], [0.5, 5], "k_", markersize=16, label="target")
    _label_axes(ax, "64 rows per Step", "live requests", "ms", [ax])


def _plot_line(
    ax: Axes, variant: PolicyVariant, xs: Sequence[Any] | range, ys: Sequence[float]
) -> None:
    label, colour = COLOURS[variant.policy]
    width = 4 if variant.policy == "sjf" else 1.5  # it is often hidden under LAPS-SD
    ax.plot(list(xs), ys, marker="o", markersize=4, color=colour, label=label, linewidth=width)


def _label_axes(ax: Axes, title: str, x: str, y: str, axes: Sequence[Axes]) -> None:
    """Label every plot; y label and legend only in the first."""
    ax.set_title(title)
    ax.set_xlabel(x)
    ax.grid(alpha=0.3)
    if ax is axes[0]:
        ax.set_ylabel(y)
        ax.legend(fontsize=8, ncols=2 if len(ax.get_legend_handles_labels()[1]) > 5 else 1)
