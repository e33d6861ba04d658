"""Which draft lengths give the most tokens per second, given their expected tokens and costs.

The ratio is maximised by Dinkelbach's method (Management Science 13, 1967): if a second is worth
`rate` tokens, the lengths with the largest surplus (their tokens minus the worth of their seconds)
have a rate of their own, which becomes the worth of a second in the next iteration; it rises to the
maximum. For a given worth the rows are independent: up to the longest draft of the Step each takes
the prefix with the largest surplus, so a position that costs much is drafted if those after it make
up for it.

Pure: knows no rows and no history.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from typing import NamedTuple

from router.scheduler.drafting.step_costs import Price

Curve = tuple[float, ...]
"""S_1..S_n of a row (see `acceptance`); 0 beyond what it may draft."""
RATE_TOLERANCE = 0.02
"""Relative difference of two iterations at which the rate counts as converged."""
MAX_ITERATIONS = 4
"""Maximum number of iterations; one or two are nearly always enough."""


class DraftLengths(NamedTuple):
    """Draft lengths by row, and their rate in tokens per second."""

    lengths: tuple[int, ...]
    rate: float

    @property
    def longest(self) -> int:
        """The longest draft."""
        return max(self.lengths)


def maximise_throughput(
    curves: Sequence[Curve],
    price: Price,
    catch_up_cost: float,
    rate: float,
    current_longest: int,
    min_gain: float,
) -> DraftLengths:
    """Return the best lengths.

    `catch_up_cost`: seconds that are added if any row drafts. `rate`: a first guess. The longest
    draft stays `current_longest` unless another gains more than the fraction `min_gain`.
    """
    for _ in range(MAX_ITERATIONS):
        choices = _candidates(curves, price, catch_up_cost, rate)
        _, lengths = max(choices, key=lambda choice: choice[0])
        best = _with_rate(lengths, curves, price, catch_up_cost)
        if abs(best.rate - rate) <= RATE_TOLERANCE * rate:
            break
        rate = best.rate
    kept = choices[min(current_longest, len(choices) - 1)][1]
    if kept == lengths:
        return best
    current = _with_rate(kept, curves, price, catch_up_cost)
    return best if best.rate > current.rate * (1 + min_gain) else current


def _candidates(
    curves: Sequence[Curve], price: Price, catch_up_cost: float, rate: float
) -> list[tuple[float, tuple[int, ...]]]:
    """Return the largest surplus and its lengths, for each longest draft from 0 on."""
    sums, tops, lengths = [0.0] * len(curves), [0.0] * len(curves), [0] * len(curves)
    worth = -rate * catch_up_cost
    candidates = [(0.0, tuple(lengths))]
    columns = zip(*curves, strict=True)
    for longest, (column, fixed, each) in enumerate(
        zip(columns, price.per_position, price.per_row, strict=True), 1
    ):
        cost = rate * each
        sums = [total + chance - cost for total, chance in zip(sums, column, strict=True)]
        for index, total in enumerate(sums):
            if total > tops[index]:
                tops[index], lengths[index] = total, longest
        worth -= rate * fixed
        candidates.append((fsum(tops) + worth, tuple(lengths)))
    return candidates


def _with_rate(
    lengths: tuple[int, ...], curves: Sequence[Curve], price: Price, catch_up_cost: float
) -> DraftLengths:
    tokens = len(curves) + fsum(sum(curve[:n]) for curve, n in zip(curves, lengths, strict=True))
    seconds = price.seconds(lengths) + (catch_up_cost if any(lengths) else 0.0)
    return DraftLengths(lengths, tokens / seconds)
