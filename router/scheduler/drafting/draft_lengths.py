"""Which draft lengths give the most tokens a second, given what they yield and what they cost.

A ratio is maximised as Dinkelbach does (Management Science 13, 1967): if a second is worth `rate`
tokens, the lengths with the largest surplus, their tokens less the worth of their seconds, have a
rate of their own; taken for the worth of a second in its turn, it rises until it is the best there
is. Given the worth rows decide apart: below a longest draft each takes the prefix of the largest
surplus, so a dear position is drafted where those behind it pay for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from typing import NamedTuple

from router.scheduler.drafting.step_costs import Price

Curve = tuple[float, ...]
"""S_1..S_n of a row; 0 beyond what it may draft."""
RATE_TOLERANCE = 0.02
"""A rate this near to the worth of a second that it came from is taken for the best."""
MAX_ITERATIONS = 4
"""Most steps towards the best rate; it is nearly always there after one or two."""


class DraftLengths(NamedTuple):
    """Draft lengths, and their rate in tokens a second."""

    lengths: tuple[int, ...]
    rate: float

    @property
    def longest(self) -> int:
        """The longest of the drafts."""
        return max(self.lengths)


def maximise_throughput(
    curves: Sequence[Curve],
    price: Price,
    catch_up_cost: float,
    rate: float,
    current_longest: int,
    min_gain: float,
) -> DraftLengths:
    """The best lengths. `toll`: seconds that any drafting costs once; `rate`: a first guess.

    The longest draft stays at `before` unless another gains more than the share `min_gain`.
    """
    for _ in range(MAX_ITERATIONS):
        choices = _candidates(curves, price, catch_up_cost, rate)
        _, lengths = max(choices, key=lambda choice: choice[0])
        found = _with_rate(lengths, curves, price, catch_up_cost)
        if abs(found.rate - rate) <= RATE_TOLERANCE * rate:
            break
        rate = found.rate
    kept = choices[min(current_longest, len(choices) - 1)][1]
    if kept == lengths:
        return found
    same = _with_rate(kept, curves, price, catch_up_cost)
    return found if found.rate > same.rate * (1 + min_gain) else same


def _candidates(
    curves: Sequence[Curve], price: Price, catch_up_cost: float, rate: float
) -> list[tuple[float, tuple[int, ...]]]:
    """For each longest draft from 0 on: the largest surplus, and the lengths that have it."""
    sums, tops, lengths = [0.0] * len(curves), [0.0] * len(curves), [0] * len(curves)
    worth = -rate * catch_up_cost
    found = [(0.0, tuple(lengths))]
    columns = zip(*curves, strict=True)
    for longest, (column, fixed, each) in enumerate(
        zip(columns, price.per_position, price.per_row, strict=True), 1
    ):
        due = rate * each
        sums = [total + chance - due for total, chance in zip(sums, column, strict=True)]
        for place, total in enumerate(sums):
            if total > tops[place]:
                tops[place], lengths[place] = total, longest
        worth -= rate * fixed
        found.append((fsum(tops) + worth, tuple(lengths)))
    return found


def _with_rate(
    lengths: tuple[int, ...], curves: Sequence[Curve], price: Price, catch_up_cost: float
) -> DraftLengths:
    tokens = len(curves) + fsum(sum(curve[:n]) for curve, n in zip(curves, lengths, strict=True))
    seconds = price.seconds(lengths) + (catch_up_cost if any(lengths) else 0.0)
    return DraftLengths(lengths, tokens / seconds)
