"""The tail parameter: order by arrival minus a boost that decreases with the size.

    b(s) = -log(1 - e^(-gamma s)) / gamma

is the boost that minimises the asymptotic tail of the response time (Yu and Scully, "Strongly
tail-optimal scheduling in the light-tailed M/G/1", 2024, where gamma is the decay of the tail).
Here gamma is a parameter: the smaller it is, the closer the order is to that by size.
"""

from __future__ import annotations

from math import expm1, log

MIDPOINT_GAMMA = 0.05
"""gamma times the mean size at `tail` 0.5; from simulations."""
_MIN_SIZE = 1e-6


def boosted_arrival(arrived: float, size: float, tail: float, mean_size: float) -> float:
    """Return `arrived` minus the boost of `size`, in seconds; least goes first.

    `tail`: above 0; 1 is the order of arrival. `mean_size`: in seconds, as `size`.
    """
    if tail >= 1:
        return arrived
    gamma = MIDPOINT_GAMMA * tail / (1 - tail) / mean_size
    return arrived + log(-expm1(-gamma * max(size, _MIN_SIZE))) / gamma
