"""What Steps cost that were not measured at warm-up, from those that were.

A forward of n tokens takes the longer of two times: to read the weights, and to compute n tokens
(Williams et al. 2009, the roofline). So seconds are convex in the tokens, and beyond the measured
points they rise by the steepest slope per token that was seen. Drafts add tokens and their own
forwards; the first row shows both.

Pure: knows no Steps but those in the table.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from math import inf

Measurement = tuple[int, int, float]
"""Rows, draft length, seconds."""
Line = list[float]
"""Seconds by draft length, from 0 on."""


def fill_lines(
    measurements: Sequence[Measurement], rows: Sequence[int], max_draft: int
) -> list[Line]:
    """Return the line of each number of `rows`.

    Raises ValueError unless `measurements` include plain Steps for each of their numbers of rows,
    and another draft length for the smallest.
    """
    measured = _measured_lines(measurements, max_draft)
    slope = _seconds_per_token(measured)
    return [_line_at(count, measured, slope) for count in rows]


def _measured_lines(measurements: Sequence[Measurement], max_draft: int) -> list[tuple[int, Line]]:
    """The line of every measured number of rows.

    One that was only measured without drafts takes their cost from the line before it.
    """
    if not measurements:
        raise ValueError("no cost of a Step was measured")
    points = {
        count: sorted((draft, seconds) for n, draft, seconds in measurements if n == count)
        for count in sorted({count for count, _, _ in measurements})
    }
    first = next(iter(points))
    for count, cells in points.items():
        if cells[0][0] != 0 or (count == first and max_draft and len(cells) < 2):
            raise ValueError(f"the costs of {count} rows lack a draft length of 0, or any other")
    slope = _steepest([(count, cells[0][1]) for count, cells in points.items()])
    lines: list[tuple[int, Line]] = []
    for count, cells in points.items():
        if len(cells) > 1 or not max_draft:
            line = [_interpolate(cells, draft) for draft in range(max_draft + 1)]
        else:
            below, before = lines[-1]
            more = slope * (count - below)
            line = [cells[0][1] + s - before[0] + more * k for k, s in enumerate(before)]
        lines.append((count, line))
    return lines


def _line_at(count: int, measured: Sequence[tuple[int, Line]], slope: float) -> Line:
    last, line = measured[-1]
    if count <= last:
        columns = zip(*(line for _, line in measured), strict=True)
        sizes = [rows for rows, _ in measured]
        return [_interpolate(list(zip(sizes, column, strict=True)), count) for column in columns]
    steps = [slope * (1 + draft) for draft in range(len(line))]
    if len(measured) > 1:
        before, earlier = measured[-2]
        own = [(b - a) / (last - before) for a, b in zip(earlier, line, strict=True)]
        steps = [max(pair) for pair in zip(steps, own, strict=True)]
    return [seconds + step * (count - last) for seconds, step in zip(line, steps, strict=True)]


def _seconds_per_token(measured: Sequence[tuple[int, Line]]) -> float:
    """The steepest slope: between numbers of rows, or else between drafts of the only one.

    The latter includes what drafting costs, so it is too high rather than too low.
    """
    if len(measured) > 1:
        return _steepest([(count, line[0]) for count, line in measured])
    count, line = measured[0]
    return _steepest(list(enumerate(line))) / count


def _steepest(points: Sequence[tuple[int, float]]) -> float:
    return max((max(0.0, (b - a) / (y - x)) for (x, a), (y, b) in pairwise(points)), default=0.0)


def _interpolate(points: Sequence[tuple[int, float]], x: int) -> float:
    """Interpolate linearly, and extrapolate along the last piece unless it falls."""
    if len(points) == 1 or x <= points[0][0]:
        return points[0][1]
    index = min(bisect_left(points, (x, -inf)), len(points) - 1)
    (left, low), (right, high) = points[index - 1 : index + 1]
    slope = (high - low) / (right - left)
    return low + (x - left) * (slope if x <= right else max(0.0, slope))
