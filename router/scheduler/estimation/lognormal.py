"""What a log-normal law of lengths says of an answer that has not ended yet. Pure arithmetic.

An answer that lies beyond what the law allows for tells that the law is too narrow: it is widened
until the answer lies `MAX_DEVIATIONS` deviations above the median. So an overrun expects about as
much again as it is long, and what is left never falls to zero while the answer goes on.
"""

from __future__ import annotations

from math import erfc, exp, inf, log, sqrt
from typing import NamedTuple

MAX_DEVIATIONS = 2.0
MIN_REMAINING = 1.0
"""Tokens left of an answer that goes on, at least, as far as its limit allows."""
_SQRT_HALF = sqrt(0.5)


class LogNormal(NamedTuple):
    """The logarithm of a length is normal."""

    median: float
    """In tokens."""
    sigma: float
    """Standard deviation of the logarithm; 0: the length is the median."""

    def expected_remaining(self, emitted: float, limit: float) -> float:
        """Expected tokens left after `emitted` of at most `most`: E[min(L, most) | L > emitted]."""
        room = limit - emitted
        if room <= MIN_REMAINING:
            return room
        if not self.sigma and emitted < self.median:
            return min(room, self.median - emitted)
        sigma = self.sigma
        if emitted > 0:
            deviation = log(emitted / self.median)
            sigma = max(sigma, deviation / MAX_DEVIATIONS, 1e-6)
            low = deviation / sigma
        else:
            low = -inf
        high = log(limit / self.median) / sigma
        mean = self.median * exp(min(50.0, sigma * sigma / 2))
        whole = mean * (upper_tail(low - sigma) - upper_tail(high - sigma)) + limit * upper_tail(
            high
        )
        return min(room, max(MIN_REMAINING, whole / upper_tail(low) - emitted))


def upper_tail(deviation: float) -> float:
    """Chance of a standard normal variable to exceed `deviation`."""
    return 0.5 * erfc(deviation * _SQRT_HALF)
