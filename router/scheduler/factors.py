"""By what the parts of an expected time must be multiplied to give the times that were seen.

Ridge regression (Hoerl and Kennard 1970) with exponential forgetting: the factors f that minimise

    sum over Steps of w * (x . f - y)^2  +  RIDGE * |f - a|^2,    x = parts / (a . parts),
                                                                  y = seen / (a . parts)

where a are the factors before anything was seen, and w falls with age. What was not seen for long
goes back to where it was: it is tried and seen again.
"""

from __future__ import annotations

from collections.abc import Sequence

MEMORY = 128.0
"""Steps after which older ones fade."""
RIDGE = 0.02
"""What the factors before weigh against what was seen."""
LEAST = 0.05
"""Least factor, as a share of the one before: work never comes for nothing."""


class Factors:
    """Of some parts. Owns what was seen of them."""

    __slots__ = ("_before", "_products", "_sums", "_values")

    def __init__(self, before: Sequence[float]) -> None:
        """`before`: the factors until something is seen."""
        self._before = tuple(before)
        self._products = [[0.0] * len(before) for _ in before]
        self._sums = [0.0] * len(before)
        self._values: tuple[float, ...] | None = self._before

    @property
    def values(self) -> tuple[float, ...]:
        """The factors."""
        if self._values is None:
            self._values = self._solved()
        return self._values

    def learn(self, parts: Sequence[float], seen: float, weight: float) -> None:
        """What was to take the sum of `parts`, by factors of 1, took `seen`.

        It counts as `weight` Steps.
        """
        total = sum(part * factor for part, factor in zip(parts, self._before, strict=True))
        kept, y, x = 1 - weight / MEMORY, seen / total, [part / total for part in parts]
        for line, own in zip(self._products, x, strict=True):
            own *= weight
            line[:] = [kept * old + own * other for old, other in zip(line, x, strict=True)]
        self._sums = [kept * old + weight * own * y for old, own in zip(self._sums, x, strict=True)]
        self._values = None

    def _solved(self) -> tuple[float, ...]:
        lines = [
            [*line, total + RIDGE * before]
            for line, total, before in zip(self._products, self._sums, self._before, strict=True)
        ]
        for place, line in enumerate(lines):
            line[place] += RIDGE
        pairs = zip(_solution(lines), self._before, strict=True)
        return tuple(max(value, LEAST * before) for value, before in pairs)


def _solution(lines: Sequence[list[float]]) -> list[float]:
    """Of a positive definite system, a line of coefficients and right side each (Gauss, Jordan)."""
    for place, pivot in enumerate(lines):
        pivot[:] = [value / pivot[place] for value in pivot]
        for line in lines:
            if line is not pivot:
                factor = line[place]
                line[:] = [a - factor * b for a, b in zip(line, pivot, strict=True)]
    return [line[-1] for line in lines]
