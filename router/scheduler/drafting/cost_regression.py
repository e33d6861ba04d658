"""Factors by which the parts of an expected time are corrected to give the measured times.

Ridge regression (Hoerl and Kennard 1970) with exponential forgetting: the factors f that minimise

    sum over Steps of w * (x . f - y)^2  +  RIDGE * |f - a|^2,    x = parts / (a . parts),
                                                                  y = measured / (a . parts)

where a are the initial factors. Steps have a kind, the length of the drafts; w falls with later
Steps of the same kind, and slowly with all others, and the weight of a kind is limited. So a kind
that is chosen again and again does not displace the others, and a kind that was not measured for
long returns to its initial cost, so that it is tried again.

Knows nothing of Steps but their kind, parts and time.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

KIND_MEMORY_STEPS, GLOBAL_MEMORY_STEPS = 32.0, 1024.0
"""Effective memory in Steps: of the same kind, and of any kind."""
MAX_KIND_WEIGHT = 3.0
"""Maximum weight of a kind, in Steps."""
PLAIN_IMPORTANCE = 10.0
"""Factor on the weight of plain Steps: every draft length is compared with them."""
RIDGE = 0.03
"""Weight of the initial factors."""
MIN_FACTOR = 0.05
"""Minimum factor, relative to the initial one: work always costs something."""


class CostRegression:
    """The regression over some parts. Owns their statistics."""

    __slots__ = ("_initial", "_kinds", "_values")

    def __init__(self, initial: Sequence[float]) -> None:
        """`initial`: the factors before anything is learned."""
        self._initial = tuple(initial)
        self._kinds: dict[int, _KindStatistics] = {}
        self._values: tuple[float, ...] | None = self._initial

    @property
    def factors(self) -> tuple[float, ...]:
        """The current factors."""
        if self._values is None:
            self._values = self._solve()
        return self._values

    def learn(self, kind: int, parts: Sequence[float], measured: float, weight: float) -> None:
        """Learn from a Step of `kind` with these `parts`, in seconds, which took `measured`.

        It counts as `weight` Steps.
        """
        total = sum(part * factor for part, factor in zip(parts, self._initial, strict=True))
        for other in self._kinds.values():
            other.weight *= 1 - weight / GLOBAL_MEMORY_STEPS
        importance = PLAIN_IMPORTANCE if kind == 0 else 1.0
        statistics = self._kinds.setdefault(kind, _KindStatistics(len(parts), importance))
        statistics.learn([part / total for part in parts], measured / total, weight)
        self._values = None

    def has_learned(self, kind: int | None = None) -> bool:
        """Whether a Step of `kind`, or any, has been learned from and not forgotten."""
        return bool(self._kinds) if kind is None else kind in self._kinds

    def forget(self, kinds: Set[int]) -> None:
        """Forget every Step of these kinds."""
        for kind in self._kinds.keys() & kinds:
            del self._kinds[kind]
        self._values = None

    def _solve(self) -> tuple[float, ...]:
        """Factors below their minimum are set to it, and the others are solved for again."""
        lines = self._linear_system()
        low = [MIN_FACTOR * initial for initial in self._initial]
        bounded: set[int] = set()
        while True:
            free = [index for index in range(len(low)) if index not in bounded]
            values = list(low)
            reduced = [
                [
                    *(lines[i][j] for j in free),
                    lines[i][-1] - sum(lines[i][j] * low[j] for j in bounded),
                ]
                for i in free
            ]
            for index, value in zip(free, _solve_linear_system(reduced), strict=True):
                values[index] = value
            below = {index for index in free if values[index] < low[index]}
            if not below:
                return tuple(values)
            bounded |= below

    def _linear_system(self) -> list[list[float]]:
        """The normal equations, as lines of coefficients and right side."""
        size = range(len(self._initial))
        kinds = [(kind.effective_weight, kind) for kind in self._kinds.values()]
        lines = [
            [
                *(sum(weight * kind.products[i][j] for weight, kind in kinds) for j in size),
                sum(weight * kind.shares[i] for weight, kind in kinds) + RIDGE * self._initial[i],
            ]
            for i in size
        ]
        for index, line in enumerate(lines):
            line[index] += RIDGE
        return lines


class _KindStatistics:
    """Weighted means of x * x and of x * y, and their weight."""

    __slots__ = ("importance", "products", "shares", "weight")

    def __init__(self, size: int, importance: float) -> None:
        self.importance = importance
        self.products = [[0.0] * size for _ in range(size)]
        self.shares = [0.0] * size
        self.weight = 0.0

    @property
    def effective_weight(self) -> float:
        """Weight of its means relative to those of other kinds."""
        return self.importance * min(self.weight, MAX_KIND_WEIGHT)

    def learn(self, x: Sequence[float], y: float, weight: float) -> None:
        """Add one Step."""
        self.weight = self.weight * (1 - weight / KIND_MEMORY_STEPS) + weight
        part = weight / self.weight
        for line, value in zip(self.products, x, strict=True):
            line[:] = [
                old + part * (value * other - old) for old, other in zip(line, x, strict=True)
            ]
        self.shares = [
            old + part * (value * y - old) for old, value in zip(self.shares, x, strict=True)
        ]


def _solve_linear_system(lines: Sequence[list[float]]) -> list[float]:
    """Solve a positive definite system of [coefficients, right side] lines (Gauss-Jordan)."""
    for index, pivot in enumerate(lines):
        pivot[:] = [value / pivot[index] for value in pivot]
        for line in lines:
            if line is not pivot:
                factor = line[index]
                line[:] = [a - factor * b for a, b in zip(line, pivot, strict=True)]
    return [line[-1] for line in lines]
