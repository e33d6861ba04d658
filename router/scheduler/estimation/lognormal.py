"""A log-normal distribution of lengths, given that an answer has not ended yet. Pure arithmetic.

An answer that is longer than the distribution allows shows that it is too narrow: it is widened
until the answer lies `MAX_DEVIATIONS` deviations above the median. Such an answer is then expected
to go on for about as long as it is, and the remainder never falls to zero while it goes on.
"""

from __future__ import annotations

from math import erfc, exp, inf, log, sqrt
from typing import NamedTuple

MAX_DEVIATIONS = 2.0
MIN_REMAINING = 1.0
"""Minimum number of tokens left of an answer that goes on, if its limit allows them."""
_SQRT_HALF = sqrt(0.5)


class LogNormal(NamedTuple):
    """The logarithm of a length is normal."""

    median: float
    """In tokens."""
    sigma: float
    """Standard deviation of the logarithm; 0: the length is the median."""

    def expected_remaining(self, emitted: float, limit: float) -> float:
        """Return the expected tokens left: E[min(L, limit) | L > emitted] - emitted."""
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
        total = mean * (upper_tail(low - sigma) - upper_tail(high - sigma)) + limit * upper_tail(
            high
        )
        return min(room, max(MIN_REMAINING, total / upper_tail(low) - emitted))


def upper_tail(deviation: float) -> float:
    """Return the probability that a standard normal variable exceeds `deviation`."""
    return 0.5 * erfc(deviation * _SQRT_HALF)
