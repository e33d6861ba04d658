"""By what the parts of an expected time must be multiplied to give the times that were seen.

Ridge regression (Hoerl and Kennard 1970) with exponential forgetting: the factors f that minimise

    sum over Steps of w * (x . f - y)^2  +  RIDGE * |f - a|^2,    x = parts / (a . parts),
                                                                  y = seen / (a . parts)

where a are the factors before anything was seen. Steps are of some kinds, the lengths of drafts; w
falls with the Steps of the same kind that came after, and slowly with all others, and no kind
weighs much more than another. So the kind that is chosen again and again does not crowd out what
the others tell apart; and what was not seen for long goes back to where it was: it is tried again.
"""

from __future__ import annotations

from collections.abc import Sequence

KIND_MEMORY_STEPS, GLOBAL_MEMORY_STEPS = 32.0, 1024.0
"""Steps of the same kind, and of any, after which older ones fade."""
MAX_KIND_WEIGHT = 3.0
"""Steps of a kind beyond which it weighs no more."""
RIDGE = 0.03
"""What the factors before weigh against what was seen."""
MIN_FACTOR = 0.05
"""Least factor, as a share of the one before: work never comes for nothing."""


class CostRegression:
    """Of some parts. Owns what was seen of them."""

    __slots__ = ("_initial", "_kinds", "_values")

    def __init__(self, initial: Sequence[float]) -> None:
        """`before`: the factors until something is seen."""
        self._initial = tuple(initial)
        self._kinds: dict[int, _KindStatistics] = {}
        self._values: tuple[float, ...] | None = self._initial

    @property
    def factors(self) -> tuple[float, ...]:
        """The factors."""
        if self._values is None:
            self._values = self._solve()
        return self._values

    def learn(self, kind: int, parts: Sequence[float], measured: float, weight: float) -> None:
        """A Step of `kind`: what was to take the sum of `parts`, by factors of 1, took `seen`.

        It counts as `weight` Steps.
        """
        total = sum(part * factor for part, factor in zip(parts, self._initial, strict=True))
        for other in self._kinds.values():
            other.weight *= 1 - weight / GLOBAL_MEMORY_STEPS
        own = self._kinds.setdefault(kind, _KindStatistics(len(parts)))
        own.learn([part / total for part in parts], measured / total, weight)
        self._values = None

    def _solve(self) -> tuple[float, ...]:
        size, kinds = range(len(self._initial)), self._kinds.values()
        lines = [
            [
                *(sum(kind.effective_weight * kind.products[i][j] for kind in kinds) for j in size),
                sum(kind.effective_weight * kind.shares[i] for kind in kinds)
                + RIDGE * self._initial[i],
            ]
            for i in size
        ]
        for place, line in enumerate(lines):
            line[place] += RIDGE
        pairs = zip(_solve_linear_system(lines), self._initial, strict=True)
        return tuple(max(value, MIN_FACTOR * before) for value, before in pairs)


class _KindStatistics:
    """Weighted means of x * x and of x * y, and their weight."""

    __slots__ = ("products", "shares", "weight")

    def __init__(self, size: int) -> None:
        self.products = [[0.0] * size for _ in range(size)]
        self.shares = [0.0] * size
        self.weight = 0.0

    @property
    def effective_weight(self) -> float:
        """What its means weigh beside those of other kinds."""
        return min(self.weight, MAX_KIND_WEIGHT)

    def learn(self, x: Sequence[float], y: float, weight: float) -> None:
        """One Step more."""
        self.weight = self.weight * (1 - weight / KIND_MEMORY_STEPS) + weight
        part = weight / self.weight
        for line, own in zip(self.products, x, strict=True):
            line[:] = [old + part * (own * other - old) for old, other in zip(line, x, strict=True)]
        self.shares = [
            old + part * (own * y - old) for old, own in zip(self.shares, x, strict=True)
        ]


def _solve_linear_system(lines: Sequence[list[float]]) -> list[float]:
    """Of a positive definite system, a line of coefficients and right side each (Gauss, Jordan)."""
    for place, pivot in enumerate(lines):
        pivot[:] = [value / pivot[place] for value in pivot]
        for line in lines:
            if line is not pivot:
                factor = line[place]
                line[:] = [a - factor * b for a, b in zip(line, pivot, strict=True)]
    return [line[-1] for line in lines]
