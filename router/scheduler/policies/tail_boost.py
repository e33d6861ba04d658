"""The tail knob: order by arrival less a boost that falls with the size.

    b(s) = -log(1 - e^(-gamma s)) / gamma

is the boost of least asymptotic tail of the response time (Yu and Scully, "Strongly tail-optimal
scheduling in the light-tailed M/G/1", 2024, where gamma is the tail's own decay). Here gamma is a
dial: the smaller it is, the nearer the order comes to that by size.
"""

from __future__ import annotations

from math import expm1, log

MIDPOINT_GAMMA = 0.05
"""gamma times the mean size at the middle of the dial (ours, from simulations)."""
_MIN_SIZE = 1e-6


def boosted_arrival(arrived: float, size: float, tail: float, mean_size: float) -> float:
    """`arrived` less the boost of `size`, in seconds; least goes first.

    `tail` above 0, up to 1: by arrival alone. `usual`: the mean size.
    """
    if tail >= 1:
        return arrived
    gamma = MIDPOINT_GAMMA * tail / (1 - tail) / mean_size
    return arrived + log(-expm1(-gamma * max(size, _MIN_SIZE))) / gamma
