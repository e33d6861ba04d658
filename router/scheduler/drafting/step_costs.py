"""What a Step costs, by the number of rows that decode and by the lengths of their drafts.

Starts from what the shards measured at warm-up. If rows draft different lengths, each draft
position costs according to the rows that reach it:

    seconds = base + sum over positions k of (fixed_k + each_k * rows that draft beyond k)

which is the measured value if all drafts are equally long. Seconds never fall with the draft
length: a measurement that says so is noise, and is raised to the one before.

The measured times of Steps correct these three parts, each by its own factor, and add a fourth: the
tokens that the rows attend to, which the warm-up does not measure. So one Step of mixed lengths
informs about all lengths, and growing rows do not make drafts look expensive.

Decides no draft length.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import inf
from typing import NamedTuple

from router.scheduler.drafting.cost_regression import CostRegression

Measurement = tuple[int, int, float]
"""Rows, draft length, seconds."""
OUTLIER_RATIO = 2.0
"""Maximum ratio of a measured to the expected time: other load on a machine makes Steps slower,
never faster."""
INITIAL_FACTORS = (1.0, 1.0, 1.0, 0.0)
"""Initial factors of base, fixed, each and context."""
_CONTEXT_TOKEN_SHARE = 1e-3
"""Fraction of one row's plain Step that is the unit of the cost of one token attended to."""
_MIN_SECONDS = 1e-9


class Price(NamedTuple):
    """Seconds of a Step: plain, per draft position, per row and position, per context token."""

    base: float
    per_position: tuple[float, ...]
    per_row: tuple[float, ...]
    per_context_token: float = 0.0

    def seconds(self, lengths: Sequence[int], context: int = 0) -> float:
        """Return the seconds of a Step with these draft lengths and `context` tokens in all."""
        return sum(self.components(lengths, context))

    def components(self, lengths: Sequence[int], context: int) -> tuple[float, ...]:
        """Return the same by part: base, fixed, each and context."""
        fixed = each = 0.0
        for position in range(max(lengths, default=0)):
            fixed += self.per_position[position]
            each += self.per_row[position] * sum(length > position for length in lengths)
        return self.base, fixed, each, self.per_context_token * context

    def scaled(self, factors: Sequence[float]) -> Price:
        """Return the price with its four parts multiplied by `factors`."""
        base, fixed, each, token = factors
        return Price(
            self.base * base,
            tuple(fixed * seconds for seconds in self.per_position),
            tuple(each * seconds for seconds in self.per_row),
            self.per_context_token * token,
        )

    def with_context(self, context: int) -> Price:
        """Return the price with the cost of `context` tokens in the base."""
        return self._replace(
            base=self.base + self.per_context_token * context, per_context_token=0.0
        )


class StepCostModel:
    """Seconds by draft length for some numbers of rows, and linear interpolation between them."""

    def __init__(self, measurements: Sequence[Measurement], max_draft: int, max_rows: int) -> None:
        """Raises ValueError unless `measurements` include plain Steps."""
        measured = _measured_lines(measurements, max_draft)
        self._rows = sorted({*(2**n for n in range(16) if 2**n < max_rows), max_rows})
        columns = [
            [
                max(_MIN_SECONDS, _interpolate([(n, line[k]) for n, line in measured], rows))
                for rows in self._rows
            ]
            for k in range(max_draft + 1)
        ]
        rising = [list(accumulate(column, max)) for column in columns]
        self._lines = [list(accumulate(line, max)) for line in zip(*rising, strict=True)]
        self._factors = [CostRegression(INITIAL_FACTORS) for _ in self._rows]
        self._warmup_prices: dict[int, Price] = {}
        self._prices: dict[int, Price] = {}
        """By rows; cleared when the factors change."""

    def price(self, rows: int) -> Price:
        """Return the price of a Step with `rows` > 0 rows."""
        price = self._prices.get(rows)
        if price is None:
            near = [(self._factors[line].factors, part) for line, part in self._neighbours(rows)]
            factors = [
                sum(part * values[index] for values, part in near)
                for index in range(len(INITIAL_FACTORS))
            ]
            price = self._prices[rows] = self._warmup_price(rows).scaled(factors)
        return price

    def learn(self, lengths: Sequence[int], context: int, seconds: float) -> None:
        """Learn that a Step with these `lengths` and `context` tokens took `seconds`."""
        rows = len(lengths)
        expected = self.price(rows).seconds(lengths, context)
        measured = min(OUTLIER_RATIO * expected, seconds)
        parts = self._warmup_price(rows).components(lengths, context)
        for index, weight in self._neighbours(rows):
            self._factors[index].learn(max(lengths), parts, measured, weight)
        self._prices.clear()

    def _warmup_price(self, rows: int) -> Price:
        """Return the price of a Step by what was measured at warm-up."""
        price = self._warmup_prices.get(rows)
        if price is None:
            price = self._warmup_prices[rows] = self._compute_warmup_price(rows)
        return price

    def _compute_warmup_price(self, rows: int) -> Price:
        all_rows = self._seconds_by_draft(rows)
        fixed, each = [], []
        for alone, together in zip(
            _increments(self._seconds_by_draft(1)), _increments(all_rows), strict=True
        ):
            more = max(0.0, (together - alone) / (rows - 1)) if rows > 1 else 0.0
            each.append(min(more, together / rows))
            fixed.append(together - rows * each[-1])
        return Price(
            all_rows[0],
            tuple(fixed),
            tuple(each),
            _CONTEXT_TOKEN_SHARE * self._seconds_by_draft(1)[0],
        )

    def _seconds_by_draft(self, rows: int) -> list[float]:
        near = self._neighbours(rows)
        if len(near) == 1:
            return self._lines[near[0][0]]
        (low, part), (high, rest) = near
        pairs = zip(self._lines[low], self._lines[high], strict=True)
        return [part * a + rest * b for a, b in pairs]

    def _neighbours(self, rows: int) -> list[tuple[int, float]]:
        """Return the indices and weights of the lines next to `rows`."""
        high = min(bisect_left(self._rows, rows), len(self._rows) - 1)
        if self._rows[high] <= rows or high == 0:
            return [(high, 1.0)]
        below, above = self._rows[high - 1], self._rows[high]
        part = (rows - below) / (above - below)
        return [(high - 1, 1.0 - part), (high, part)]


def _increments(line: Sequence[float]) -> list[float]:
    return [b - a for a, b in pairwise(line)]


def _measured_lines(
    measurements: Sequence[Measurement], max_draft: int
) -> list[tuple[int, list[float]]]:
    """Return for each measured number of rows the seconds of every draft length."""
    lines = []
    for rows in sorted({rows for rows, _, _ in measurements}):
        points = sorted((draft, seconds) for n, draft, seconds in measurements if n == rows)
        if points[0][0] != 0 or (max_draft and len(points) < 2):
            raise ValueError(f"the costs of {rows} rows lack a draft length of 0, or any other")
        lines.append((rows, [_interpolate(points, draft) for draft in range(max_draft + 1)]))
    if not lines:
        raise ValueError("no cost of a Step was measured")
    return lines


def _interpolate(points: Sequence[tuple[int, float]], x: int) -> float:
    """Interpolate linearly, and extrapolate along the last piece unless it falls."""
    if len(points) == 1 or x <= points[0][0]:
        return points[0][1]
    index = min(bisect_left(points, (x, -inf)), len(points) - 1)
    (left, low), (right, high) = points[index - 1 : index + 1]
    slope = (high - low) / (right - left)
    return low + (x - left) * (slope if x <= right else max(0.0, slope))
