"""What a Step costs, by the number of rows that decode and by the lengths of their drafts.

Starts from what the shards measured at warm-up. If rows draft different lengths, each draft
position costs according to the rows that reach it:

    seconds = base + sum over positions k of (fixed_k + each_k * rows that draft beyond k)

which is the measured value if all drafts are equally long. Seconds never fall with the draft
length: a measurement that says so is noise, and is raised to the one before.

The measured times of Steps correct these three parts, each by its own factor, and add two: the
tokens that the rows attend to, which the warm-up does not measure, and the drafted tokens, which it
may have seen at no cost because its Steps were bound by memory. So one Step of mixed lengths
informs about all lengths, and growing rows do not make drafts look expensive.

A single Step that is much slower than expected may be due to other load on the machine, and does
not count. Two in a row show that the price is wrong: both are believed, and what was learned of
their kinds before is forgotten.

Decides no draft length.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from router.scheduler.drafting.cost_regression import CostRegression
from router.scheduler.drafting.roofline import Measurement, fill_lines

OUTLIER_RATIO = 2.0
"""Ratio of the measured to the expected time from which a Step is a surprise. One that is slower
does not count until the next confirms it; one that is faster by as much is believed at once, since
other load on a machine makes Steps slower, never faster."""
INITIAL_FACTORS = (1.0, 1.0, 1.0, 0.0, 0.0)
"""Initial factors of base, fixed, each, context and drafted tokens."""
_CONTEXT_TOKEN_SHARE = 1e-3
"""Fraction of one row's plain Step that is the unit of the cost of one token attended to."""
_MIN_SECONDS = 1e-9


class Price(NamedTuple):
    """Seconds of a Step: plain, per draft position, per row and position, per context token and per
    drafted token."""

    base: float
    per_position: tuple[float, ...]
    per_row: tuple[float, ...]
    per_context_token: float = 0.0
    per_drafted_token: float = 0.0

    def seconds(self, lengths: Sequence[int], context: int = 0) -> float:
        """Return the seconds of a Step with these draft lengths and `context` tokens in all."""
        return sum(self.components(lengths, context))

    def components(self, lengths: Sequence[int], context: int) -> tuple[float, ...]:
        """Return the same by part: base, fixed, each, context and drafted tokens."""
        fixed = each = 0.0
        for position in range(max(lengths, default=0)):
            fixed += self.per_position[position]
            each += self.per_row[position] * sum(length > position for length in lengths)
        drafted = self.per_drafted_token * sum(lengths)
        return self.base, fixed, each, self.per_context_token * context, drafted

    def scaled(self, factors: Sequence[float]) -> Price:
        """Return the price with its five parts multiplied by `factors`; the last becomes a part of
        the cost per row and position."""
        base, fixed, each, token, drafted = factors
        more = drafted * self.per_drafted_token
        return Price(
            self.base * base,
            tuple(fixed * seconds for seconds in self.per_position),
            tuple(each * seconds + more for seconds in self.per_row),
            self.per_context_token * token,
        )

    def with_context(self, context: int) -> Price:
        """Return the price with the cost of `context` tokens in the base."""
        return self._replace(
            base=self.base + self.per_context_token * context, per_context_token=0.0
        )


class _LearnedStep(NamedTuple):
    """A Step: its longest draft, the parts of its price by the warm-up, and what it took."""

    kind: int
    parts: tuple[float, ...]
    seconds: float


class StepCostModel:
    """Seconds by draft length for some numbers of rows, and linear interpolation between them."""

    def __init__(self, measurements: Sequence[Measurement], max_draft: int, max_rows: int) -> None:
        """Raises ValueError unless `measurements` include plain Steps."""
        self._rows = sorted({*(2**n for n in range(16) if 2**n < max_rows), max_rows})
        lines = fill_lines(measurements, self._rows, max_draft)
        columns = [
            [max(_MIN_SECONDS, each) for each in column] for column in zip(*lines, strict=True)
        ]
        rising = [list(accumulate(column, max)) for column in columns]
        self._lines = [list(accumulate(line, max)) for line in zip(*rising, strict=True)]
        self._factors = [CostRegression(INITIAL_FACTORS) for _ in self._rows]
        self._pending: list[_LearnedStep | None] = [None] * len(self._rows)
        """The last Step, if it was slower than `OUTLIER_RATIO` allows and is not yet believed."""
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
        rows, kind = len(lengths), max(lengths)
        ratio = seconds / self.price(rows).seconds(lengths, context)
        step = _LearnedStep(kind, self._warmup_price(rows).components(lengths, context), seconds)
        for index, weight in self._neighbours(rows):
            self._learn_at(index, weight, step, ratio)
        self._prices.clear()

    def _learn_at(self, index: int, weight: float, step: _LearnedStep, ratio: float) -> None:
        """Learn `step`, which took `ratio` times as long as expected, at one number of rows."""
        factors, pending, steps = self._factors[index], self._pending[index], [step]
        self._pending[index] = None
        if ratio > OUTLIER_RATIO and pending is None:
            self._pending[index] = step
            return
        if ratio > OUTLIER_RATIO and pending is not None:
            steps = [pending, step]
        if not 1 / OUTLIER_RATIO <= ratio <= OUTLIER_RATIO:
            factors.forget({each.kind for each in steps})
        for each in steps:
            factors.learn(each.kind, each.parts, each.seconds, weight)

    def lacks_plain_step(self, rows: int) -> bool:
        """Whether Steps of about `rows` rows have drafted, and no plain one has been learned."""
        near = [self._factors[index] for index, _ in self._neighbours(rows)]
        return any(each.has_learned() and not each.has_learned(0) for each in near)

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
            all_rows[0] / rows,
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
