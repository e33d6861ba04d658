"""The Gittins index of a log-normal length: work per completed answer, at the best stopping time.

    work(g) = min over h > 0 of E[min(L - g, h) | L > g] / P(L <= g + h | L > g)

Serving the least work first minimises mean latency on one server if only the distribution is known
and service may be preempted at any time (Gittins 1989; Aalto et al., QUESTA 2009). For a narrow
distribution it is the expected remainder; for a heavy tail a new answer goes before one that is
already longer than most. Tabulated once per sigma, in units of the median.
"""

from __future__ import annotations

from bisect import bisect_right
from math import exp, log

from router.scheduler.estimation.lognormal import MAX_DEVIATIONS, LogNormal, upper_tail

_SIGMA_STEP = 0.05
"""Grid of sigma."""
_DEVIATIONS = [0.125 * n for n in range(-32, 41)]
"""Ages that are tabulated, in deviations from the median; age 0 is added."""

IndexTable = tuple[list[float], list[float]]
"""Ages, and the work at each, both in units of the median."""


class GittinsTables:
    """Tables by sigma, computed when first needed."""

    def __init__(self) -> None:
        self._tables: dict[int, IndexTable] = {}

    def work_per_completion(self, lengths: LogNormal, emitted: float, limit: float) -> float:
        """Return the tokens of work per completed answer, at most the expected remainder."""
        left = lengths.expected_remaining(emitted, limit)
        age = emitted / lengths.median
        if not lengths.sigma or (age > 1 and log(age) >= MAX_DEVIATIONS * lengths.sigma):
            return left  # the log-normal fit is unreliable this far in the tail
        width = max(1, round(lengths.sigma / _SIGMA_STEP))
        table = self._tables.get(width)
        if table is None:
            table = self._tables[width] = _build_table(width * _SIGMA_STEP)
        return min(left, lengths.median * _interpolate(table, age))


def _interpolate(table: IndexTable, age: float) -> float:
    ages, works = table
    place = min(bisect_right(ages, age), len(ages) - 1)
    share = (age - ages[place - 1]) / (ages[place] - ages[place - 1])
    return max(0.0, works[place - 1] + share * (works[place] - works[place - 1]))


def _build_table(sigma: float) -> IndexTable:
    mean = exp(sigma * sigma / 2)
    ages = [0.0, *(exp(sigma * deviation) for deviation in _DEVIATIONS)]
    tails = [1.0, *(upper_tail(deviation) for deviation in _DEVIATIONS)]
    parts = [mean, *(mean * upper_tail(deviation - sigma) for deviation in _DEVIATIONS)]
    works = []
    for now, (age, tail, part) in enumerate(zip(ages, tails, parts, strict=True)):
        best = part / tail - age
        for then in range(now + 1, len(ages)):
            ended = tail - tails[then]
            work = part - parts[then] + ages[then] * tails[then] - age * tail
            if ended > 1e-12:
                best = min(best, work / ended)
        works.append(max(0.0, best))
    return ages, works
