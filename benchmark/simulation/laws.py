"""The true law of a made-up request's length, given what was predicted of it.

Bayes over every possible length: the generator's cut and rounded log-normal, times how likely such
a length would have been predicted so. `Work` is Gittins' index of such a law, by enumeration.
"""

from __future__ import annotations

from math import log

import numpy

from benchmark.simulation.workloads import FloatArray, WorkloadShape
from router.scheduler.estimation.lognormal import upper_tail


def prior_lengths(shape: WorkloadShape, shrink: float = 1.0) -> FloatArray:
    """The chance of each length from 1 to the limit, before anything is predicted."""
    median, deviation = shape.output
    most = max(2, round(shape.max_new / shrink))
    edges = [(log((n + 0.5) * shrink / median)) / deviation for n in range(1, most)]
    tails = numpy.array([1.0, *map(upper_tail, edges), 0.0])
    chances: FloatArray = tails[:-1] - tails[1:]
    return chances


def posterior_lengths(before: FloatArray, predicted: float, sigma: float) -> FloatArray:
    """The same once `predicted` is known, which errs by `sigma` in the logarithm.

    Raises ValueError unless `sigma` is positive: otherwise there is no law, but the length.
    """
    if sigma <= 0:
        raise ValueError(f"a prediction that errs by {sigma} leaves nothing open")
    errors = (numpy.log(numpy.arange(1, len(before) + 1)) - log(predicted)) / sigma
    squares = errors**2
    weights = before * numpy.exp(-0.5 * (squares - squares.min()))
    found: FloatArray = weights / weights.sum()
    return found


class GittinsIndex:
    """Tokens of work per ended answer, at the best moment to stop.

    work(g) = min over h > g of E[min(L, h) - g | L > g] / P(L <= h | L > g)
    """

    def __init__(self, chances: FloatArray) -> None:
        """`chances`: of each length from 1 on."""
        tails = 1.0 - numpy.concatenate([[0.0], numpy.cumsum(chances)])
        self._tails = tails.clip(0.0)
        """P(L > g), g from 0 to the limit."""
        self._areas = numpy.concatenate([[0.0], numpy.cumsum(self._tails[:-1])])
        """E[min(L, g)]."""

    def after(self, emitted: int) -> float:
        """Of an answer that goes on after `emitted` tokens."""
        ended = self._tails[emitted] - self._tails[emitted + 1 :]
        work = self._areas[emitted + 1 :] - self._areas[emitted]
        with numpy.errstate(divide="ignore", invalid="ignore"):
            found = numpy.where(ended > 1e-12, work / ended, numpy.inf)
        best = float(found.min(initial=numpy.inf))
        return best if best < numpy.inf else float(len(self._tails) - 1 - emitted)
