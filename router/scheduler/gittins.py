"""Gittins' index of a log-normal law: work done per answer ended, at the best moment to stop.

    work(g) = min over h > 0 of E[min(L - g, h) | L > g] / P(L <= g + h | L > g)

Serving the least work first has the least mean latency on one server when only the law is known
and service may be interrupted at any time (Gittins 1989; Aalto et al., QUESTA 2009). Where the law
is narrow it is the expected remainder; where the tail is heavy a fresh answer goes before one that
has already outlived most. Tabled once per width, in units of the median.
"""

from __future__ import annotations

from math import exp, log

from router.scheduler.law import SURPRISE, Law, above

_STEP = 0.125
_AGES = [-4.0 + _STEP * n for n in range(73)]
"""Deviations from the median at which ages are tabled."""
_WIDTH = 0.05
"""Grid of sigma."""


class Gittins:
    """Tables by width, made when first asked for."""

    def __init__(self) -> None:
        self._tables: dict[int, list[float]] = {}

    def work(self, law: Law, emitted: float, most: float) -> float:
        """Tokens of work per ended answer; never above the expected remainder."""
        left = law.left(emitted, most)
        age = log(emitted / law.median) / law.sigma if emitted > 0 else _AGES[0]
        if age >= SURPRISE:
            return left  # the law is not to be believed in detail
        width = max(1, round(law.sigma / _WIDTH))
        table = self._tables.get(width)
        if table is None:
            table = self._tables[width] = _table(width * _WIDTH)
        place = (max(age, _AGES[0]) - _AGES[0]) / _STEP
        index = int(place)
        share = place - index
        return min(left, law.median * ((1 - share) * table[index] + share * table[index + 1]))


def _table(sigma: float) -> list[float]:
    """Work at each of `_AGES`, in medians."""
    mean = exp(sigma * sigma / 2)
    points = [exp(sigma * age) for age in _AGES]
    tails = [above(age) for age in _AGES]
    parts = [mean * above(age - sigma) for age in _AGES]
    table = []
    for now, (point, tail, part) in enumerate(zip(points, tails, parts, strict=True)):
        best = part / tail - point
        for then in range(now + 1, len(_AGES)):
            ended = tail - tails[then]
            work = part - parts[then] + points[then] * tails[then] - point * tail
            if ended > 1e-12:
                best = min(best, work / ended)
        table.append(max(0.0, best))
    return table
