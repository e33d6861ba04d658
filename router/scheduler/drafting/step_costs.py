"""What a Step costs, by the number of rows that decode and by how long their drafts are.

Starts from what the shards measured at warm-up. Where rows draft different lengths, each position
of a draft is priced by the rows that reach it:

    seconds = base + sum over positions k of (fixed_k + each_k * rows that draft beyond k)

which is the table's own figure where all drafts are equally long. Seconds never fall with the
draft length: what a measurement says otherwise is noise, and is levelled.

What Steps really take corrects these three parts, each by a factor of its own, and adds a fourth:
the tokens that the rows attend to, of which the warm-up knows nothing. So one Step of mixed lengths
tells about all lengths, and rows that grow do not make their drafts look dear.
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
"""A Step that took more than so many times what was expected counts as this many times: what else
a machine does makes Steps slower, never faster."""
INITIAL_FACTORS = (1.0, 1.0, 1.0, 0.0)
"""Factors of base, fixed, each and context before anything was seen."""
_CONTEXT_TOKEN_SHARE = 1e-3
"""Share of one row's plain Step that is the unit of the cost of one token attended to."""
_MIN_SECONDS = 1e-9


class Price(NamedTuple):
    """Seconds of a Step with some rows: plain, per position of a draft, per token of context."""

    base: float
    per_position: tuple[float, ...]
    per_row: tuple[float, ...]
    per_context_token: float = 0.0

    def seconds(self, lengths: Sequence[int], context: int = 0) -> float:
        """Of a Step in which the rows draft `lengths` and attend to `context` tokens in all."""
        return sum(self.components(lengths, context))

    def components(self, lengths: Sequence[int], context: int) -> tuple[float, ...]:
        """The same as what comes of `base`, of `fixed`, of `each` and of `token`."""
        fixed = each = 0.0
        for position in range(max(lengths, default=0)):
            fixed += self.per_position[position]
            each += self.per_row[position] * sum(length > position for length in lengths)
        return self.base, fixed, each, self.per_context_token * context

    def scaled(self, factors: Sequence[float]) -> Price:
        """With its four parts multiplied by `factors`."""
        base, fixed, each, token = factors
        return Price(
            self.base * base,
            tuple(fixed * seconds for seconds in self.per_position),
            tuple(each * seconds for seconds in self.per_row),
            self.per_context_token * token,
        )

    def with_context(self, context: int) -> Price:
        """With the cost of `context` tokens as part of the base."""
        return self._replace(
            base=self.base + self.per_context_token * context, per_context_token=0.0
        )


class StepCostModel:
    """A line of seconds by draft length for some numbers of rows; between them it is linear."""

    def __init__(self, measurements: Sequence[Measurement], max_draft: int, max_rows: int) -> None:
        """`cells`: what was measured. Raises ValueError if that says nothing of plain Steps."""
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
        """By rows, while the factors stay as they are."""

    def price(self, rows: int) -> Price:
        """Of a Step with `rows` > 0 rows."""
        price = self._prices.get(rows)
        if price is None:
            near = [(self._factors[index].factors, part) for index, part in self._neighbours(rows)]
            factors = [
                sum(part * values[place] for values, part in near)
                for place in range(len(INITIAL_FACTORS))
            ]
            price = self._prices[rows] = self._warmup_price(rows).scaled(factors)
        return price

    def learn(self, lengths: Sequence[int], context: int, seconds: float) -> None:
        """A Step in which rows drafted `lengths` and attended to `context` took `seconds`."""
        rows = len(lengths)
        expected = self.price(rows).seconds(lengths, context)
        likely = min(OUTLIER_RATIO * expected, seconds)
        parts = self._warmup_price(rows).components(lengths, context)
        for index, weight in self._neighbours(rows):
            self._factors[index].learn(max(lengths), parts, likely, weight)
        self._prices.clear()

    def _warmup_price(self, rows: int) -> Price:
        """What was measured at warm-up says of a Step with `rows` rows."""
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
        """The lines next to `rows`, by index, and their weights."""
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
    """For each measured number of rows, seconds of every draft length up to `longest`."""
    lines = []
    for rows in sorted({rows for rows, _, _ in measurements}):
        points = sorted((draft, seconds) for n, draft, seconds in measurements if n == rows)
        if points[0][0] != 0 or (max_draft and len(points) < 2):
            raise ValueError(f"the costs of {rows} rows lack a draft length of 0, or any other")
        lines.append((rows, [_interpolate(points, draft) for draft in range(max_draft + 1)]))
    if not lines:
        raise ValueError("nothing is known of what a Step costs")
    return lines


def _interpolate(points: Sequence[tuple[int, float]], x: int) -> float:
    """Linear between `points`, and beyond the last along the last piece, which never falls."""
    if len(points) == 1 or x <= points[0][0]:
        return points[0][1]
    index = min(bisect_left(points, (x, -inf)), len(points) - 1)
    (left, low), (right, high) = points[index - 1 : index + 1]
    slope = (high - low) / (right - left)
    return low + (x - left) * (slope if x <= right else max(0.0, slope))
