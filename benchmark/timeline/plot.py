"""The picture of a recording: a row per request over time, and the acceptance below.

Decides the presentation only. matplotlib is an extra that only plots need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import matplotlib
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.lines import Line2D

from benchmark.timeline.tracks import Recording, Span, Track

matplotlib.use("Agg")

WAITING, PREFILL, UNDRAFTED = "#d5d5d5", "#4c78a8", "#777777"
MARKERS = {"recompute": ("x", "#d62728"), "swap": ("v", "#9467bd"), "keep": ("|", "#ff7f0e")}
"""Marker and colour of each kind of preemption."""
INCHES_PER_ROW, MIN_INCHES, MAX_INCHES = 0.14, 2.0, 12.0
BINS = 80
"""Intervals of time over which the lower plot averages."""


def draw(recording: Recording, file: Path) -> None:
    """Write the picture as a PNG."""
    height = INCHES_PER_ROW * len(recording.tracks)
    height = min(MAX_INCHES, max(MIN_INCHES, height))
    figure, (rows, below) = pyplot.subplots(
        2,
        1,
        figsize=(12, height + 2.4),
        height_ratios=(height, 1.4),
        sharex=True,
        layout="constrained",
    )
    colours = pyplot.get_cmap("viridis")
    _draw_tracks(rows, recording, colours)
    _draw_load(below, recording)
    scale = ScalarMappable(Normalize(0, 1), colours)
    figure.colorbar(scale, ax=rows, label="accepted fraction of a round's drafts", pad=0.01)
    figure.savefig(file, dpi=90)
    pyplot.close(figure)


def _draw_tracks(axes: Axes, recording: Recording, colours: Colormap) -> None:
    tracks = recording.tracks
    width = max(1.0, min(7.0, 360 / max(1, len(tracks))))
    lives = [[(track.arrived, y), (_end(track, recording), y)] for y, track in enumerate(tracks)]
    axes.add_collection(LineCollection(lives, colors=WAITING, linewidths=width / 3))
    spans = [(y, span) for y, track in enumerate(tracks) for span in track.spans]
    lines = [[(span.start, y), (span.end, y)] for y, span in spans]
    shades = [_colour(span, colours) for _, span in spans]
    axes.add_collection(LineCollection(lines, colors=shades, linewidths=width, capstyle="butt"))
    for kind, (marker, colour) in MARKERS.items():
        points = [
            (t, y)
            for y, track in enumerate(tracks)
            for t, name in track.preemptions
            if name == kind
        ]
        if points:
            times, ys = zip(*points, strict=True)
            axes.scatter(times, ys, s=4 * width, c=colour, marker=marker, zorder=3)
    for reset in recording.resets:
        axes.axvline(reset, color="black", linestyle=":")
    axes.set(
        xlim=(0, recording.seconds or 1),
        ylim=(len(tracks), -1),
        ylabel="request, by arrival",
        title=f"Who ran when: {recording.policy}",
    )
    axes.legend(handles=list(_legend()), loc="upper right", fontsize="small", ncols=3)


def _legend() -> Iterator[Line2D]:
    yield Line2D([], [], color=WAITING, linewidth=2, label="waits")
    yield Line2D([], [], color=PREFILL, linewidth=5, label="prefill")
    yield Line2D([], [], color=UNDRAFTED, linewidth=5, label="decodes without drafts")
    for kind, (marker, colour) in MARKERS.items():
        yield Line2D([], [], color=colour, marker=marker, linestyle="", label=f"preempted: {kind}")


def _colour(span: Span, colours: Colormap) -> object:
    if span.prefilled:
        return PREFILL
    return colours(span.accepted / span.drafted) if span.drafted else UNDRAFTED


def _draw_load(axes: Axes, recording: Recording) -> None:
    """How many requests are live and run, and the accepted fraction, over time."""
    edges = [recording.seconds * index / BINS for index in range(BINS + 1)]
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    live = [
        sum(track.arrived <= t < _end(track, recording) for track in recording.tracks)
        for t in middles
    ]
    spans = [span for track in recording.tracks for span in track.spans]
    axes.step(middles, live, where="mid", color="#888888", label="live")
    running = [sum(span.start <= t < span.end for span in spans) for t in middles]
    axes.step(middles, running, where="mid", color=PREFILL, label="running")
    axes.set(xlabel="seconds", ylabel="requests", ylim=(0, None))
    axes.legend(loc="upper right", fontsize="small", ncols=2)
    rates = axes.twinx()
    rates.plot(middles, _rates(spans, edges), color="#2ca02c", linewidth=1.5)
    rates.set_ylim(0, 1)
    rates.set_ylabel("acceptance", color="#2ca02c")


def _rates(spans: Sequence[Span], edges: Sequence[float]) -> list[float]:
    """The accepted fraction of the drafts in each interval; NaN without any."""
    rates = []
    for low, high in pairwise(edges):
        inside = [span for span in spans if low <= span.end < high]
        drafted = sum(span.drafted for span in inside)
        accepted = sum(span.accepted for span in inside)
        rates.append(accepted / drafted if drafted else float("nan"))
    return rates


def _end(track: Track, recording: Recording) -> float:
    return recording.seconds if track.ended is None else track.ended
