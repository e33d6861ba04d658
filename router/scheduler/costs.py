"""What a Step costs, by the number of rows that decode and by how long their drafts are.

Starts from what the shards measured at warm-up and follows what Steps really take. Where rows
draft different lengths, each position of a draft is priced by the rows that reach it:

    seconds = base + sum over positions k of (fixed_k + each_k * rows that draft beyond k)

which is the table's own figure where all drafts are equally long. Seconds never fall with the
draft length: what a measurement says otherwise is noise, and is levelled.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import inf
from typing import NamedTuple

Cell = tuple[int, int, float]
"""Rows, draft length, seconds."""
RATE = 0.1
"""Weight of one Step in the moving average."""
OUTLIER = 4.0
"""A Step that took more than so many times what was expected counts as this many times."""
NOISE = 0.005
"""A Step that took within this share of what was expected teaches nothing."""
_LEAST = 1e-9


class Price(NamedTuple):
    """Seconds of a Step with a given number of rows: plain, and for each position of a draft."""

    base: float
    fixed: tuple[float, ...]
    each: tuple[float, ...]

    def seconds(self, lengths: Sequence[int]) -> float:
        """Of a Step in which the rows draft `lengths`."""
        total = self.base
        for position in range(max(lengths, default=0)):
            reached = sum(length > position for length in lengths)
            total += self.fixed[position] + self.each[position] * reached
        return total


class StepCosts:
    """A line of seconds by draft length for some numbers of rows; between them it is linear."""

    def __init__(self, cells: Sequence[Cell], longest: int, most_rows: int) -> None:
        """`cells`: what was measured. Raises ValueError if that says nothing of plain Steps."""
        measured = _lines(cells, longest)
        self._rows = sorted({*(2**n for n in range(16) if 2**n < most_rows), most_rows})
        columns = [
            [max(_LEAST, _at([(n, line[k]) for n, line in measured], rows)) for rows in self._rows]
            for k in range(longest + 1)
        ]
        rising = [list(accumulate(column, max)) for column in columns]
        self._lines = [list(accumulate(line, max)) for line in zip(*rising, strict=True)]
        self._prices: dict[int, Price] = {}
        """By rows, while the lines stay as they are."""

    def price(self, rows: int) -> Price:
        """Of a Step with `rows` > 0 rows."""
        price = self._prices.get(rows)
        if price is None:
            price = self._prices[rows] = self._price(rows)
        return price

    def _price(self, rows: int) -> Price:
        all_rows = self._line(rows)
        fixed, each = [], []
        for alone, together in zip(_steps(self._line(1)), _steps(all_rows), strict=True):
            more = max(0.0, (together - alone) / (rows - 1)) if rows > 1 else 0.0
            each.append(min(more, together / rows))
            fixed.append(together - rows * each[-1])
        return Price(all_rows[0], tuple(fixed), tuple(each))

    def learn(self, lengths: Sequence[int], seconds: float) -> None:
        """A Step in which rows drafted `lengths` took `seconds`."""
        rows, longest = len(lengths), max(lengths)
        ratio = seconds / self.price(rows).seconds(lengths)
        if abs(ratio - 1) < NOISE:
            return
        self._prices.clear()
        change = RATE * (min(OUTLIER, max(1 / OUTLIER, ratio)) - 1)
        for index, weight in self._near(rows):
            self._lines[index] = _moved(self._lines[index], longest, change * weight)

    def _line(self, rows: int) -> list[float]:
        near = self._near(rows)
        if len(near) == 1:
            return self._lines[near[0][0]]
        (low, part), (high, rest) = near
        pairs = zip(self._lines[low], self._lines[high], strict=True)
        return [part * a + rest * b for a, b in pairs]

    def _near(self, rows: int) -> list[tuple[int, float]]:
        """The lines next to `rows`, by index, and their weights."""
        high = min(bisect_left(self._rows, rows), len(self._rows) - 1)
        if self._rows[high] <= rows or high == 0:
            return [(high, 1.0)]
        below, above = self._rows[high - 1], self._rows[high]
        part = (rows - below) / (above - below)
        return [(high - 1, 1.0 - part), (high, part)]


def _steps(line: Sequence[float]) -> list[float]:
    return [b - a for a, b in pairwise(line)]


def _moved(line: Sequence[float], used: int, change: float) -> list[float]:
    """`line` after a Step with drafts of `used`; others give way only where the order would break.

    Nothing else is concluded for them: a length that is taken for cheap is tried and corrected, one
    that is taken for dear would never be seen again.
    """
    seen = line[used] * (1 + change)
    return [*(min(s, seen) for s in line[:used]), seen, *(max(s, seen) for s in line[used + 1 :])]


def _lines(cells: Sequence[Cell], longest: int) -> list[tuple[int, list[float]]]:
    """For each measured number of rows, seconds of every draft length up to `longest`."""
    lines = []
    for rows in sorted({rows for rows, _, _ in cells}):
        points = sorted((draft, seconds) for n, draft, seconds in cells if n == rows)
        if points[0][0] != 0 or (longest and len(points) < 2):
            raise ValueError(f"the costs of {rows} rows lack a draft length of 0, or any other")
        lines.append((rows, [_at(points, draft) for draft in range(longest + 1)]))
    if not lines:
        raise ValueError("nothing is known of what a Step costs")
    return lines


def _at(points: Sequence[tuple[int, float]], x: int) -> float:
    """Linear between `points`, and beyond the last along the last piece, which never falls."""
    if len(points) == 1 or x <= points[0][0]:
        return points[0][1]
    index = min(bisect_left(points, (x, -inf)), len(points) - 1)
    (left, low), (right, high) = points[index - 1 : index + 1]
    slope = (high - low) / (right - left)
    return low + (x - left) * (slope if x <= right else max(0.0, slope))
