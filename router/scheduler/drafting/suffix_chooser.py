"""How many tokens suffix decoding may draft for each row, in place of the row's other drafts.

Suffix decoding finds a draft in some rounds only, and a shard learns that during the Step. So a row
gets two lengths: for suffix decoding, if it finds a match, and for the other drafter, if it does
not. Drafts by suffix decoding take no time but that of their verification, for which the warm-up
has measured a table of its own.

At a rate of r tokens per second, a draft of n tokens has the surplus S_1 + ... + S_n less r times
its seconds; suffix decoding is allowed where its best surplus exceeds that of the other draft. A
row for which it does not pay tries one token from time to time, since what is never drafted is
never learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from router.scheduler.api import DeviceCapacity
from router.scheduler.drafting.draft_lengths import Curve
from router.scheduler.drafting.step_costs import Price, StepCostModel
from router.scheduler.row import Row

PROBE_INTERVAL = 64
"""Choices between two at which every row may draft a token."""


class SuffixLengthChooser:
    """Chooses lengths. Owns the costs of Steps whose drafts take no time."""

    def __init__(self, capacity: DeviceCapacity) -> None:
        nominal = tuple((1, length, capacity.verify_seconds) for length in (0, capacity.suffix))
        cells = capacity.suffix_costs or nominal
        self._costs = StepCostModel(cells, capacity.suffix, capacity.max_rows)
        self._choices = 0

    def choose(
        self, rows: Sequence[Row], curves: Sequence[Curve], lengths: Sequence[int], price: Price
    ) -> dict[int, int]:
        """Return the lengths by id, where the other drafter has `curves`, `lengths`, and `price`.

        Rows that are not in the result draft nothing by suffix decoding.
        """
        self._choices += 1
        least = int(self._choices % PROBE_INTERVAL == 0)
        rate = _rate(curves, lengths, price)
        own = self._costs.price(len(rows))
        chosen = {}
        for row, curve, length in zip(rows, curves, lengths, strict=True):
            surpluses = _surpluses(curve[:length], price, len(rows), rate)
            rival = max(0.0, surpluses[-1]) if surpluses else 0.0
            cap = min(row.max_suffix, row.remaining_tokens - 1)
            best = _best_length(row.suffix_acceptance.curve[:cap], own, len(rows), rate, rival)
            if cap > 0 and (best or least):
                chosen[row.job.id] = max(best, least)
        return chosen

    def learn(self, lengths: Sequence[int], context: int, seconds: float) -> None:
        """Learn what a Step took in which nothing but suffix decoding drafted."""
        self._costs.learn(lengths, context, seconds)


def _rate(curves: Sequence[Curve], lengths: Sequence[int], price: Price) -> float:
    """Return the tokens per second of a Step without suffix decoding."""
    tokens = sum(1 + sum(curve[:n]) for curve, n in zip(curves, lengths, strict=True))
    return tokens / price.seconds(lengths)


def _surpluses(curve: Curve, price: Price, rows: int, rate: float) -> list[float]:
    """Return the surplus of each length up to that of `curve`; rows share what is per position."""
    each = (
        chance - rate * (alone + shared / rows)
        for chance, alone, shared in zip(curve, price.per_row, price.per_position, strict=False)
    )
    return list(accumulate(each))


def _best_length(curve: Curve, price: Price, rows: int, rate: float, rival: float) -> int:
    """Return the length with the largest surplus; 0 if that is no larger than `rival`."""
    surpluses = _surpluses(curve, price, rows, rate)
    best = max(surpluses, default=0.0)
    return surpluses.index(best) + 1 if best > rival else 0
