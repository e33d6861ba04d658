"""The true distribution of a generated request's length, given its predicted length.

Bayes over every possible length: the generator's truncated and rounded log-normal, times the
likelihood of the prediction. `GittinsIndex` is the index of such a distribution, by enumeration.
"""

from __future__ import annotations

from math import log

import numpy

from benchmark.simulation.workloads import FloatArray, WorkloadShape
from router.scheduler.estimation.lognormal import upper_tail


def prior_lengths(shape: WorkloadShape, shrink: float = 1.0) -> FloatArray:
    """Return the probability of each length from 1 to the limit, without a prediction."""
    median, deviation = shape.output
    max_new = max(2, round(shape.max_new / shrink))
    edges = [(log((n + 0.5) * shrink / median)) / deviation for n in range(1, max_new)]
    tails = numpy.array([1.0, *map(upper_tail, edges), 0.0])
    chances: FloatArray = tails[:-1] - tails[1:]
    return chances


def posterior_lengths(before: FloatArray, predicted: float, sigma: float) -> FloatArray:
    """Return the same given a prediction whose logarithm has the error `sigma`.

    Raises ValueError unless `sigma` is positive: otherwise the length is known.
    """
    if sigma <= 0:
        raise ValueError(f"a prediction with an error of {sigma} is the length itself")
    errors = (numpy.log(numpy.arange(1, len(before) + 1)) - log(predicted)) / sigma
    squares = errors**2
    weights = before * numpy.exp(-0.5 * (squares - squares.min()))
    chances: FloatArray = weights / weights.sum()
    return chances


class GittinsIndex:
    """Tokens of work per completed answer, at the best stopping time.

    work(g) = min over h > g of E[min(L, h) - g | L > g] / P(L <= h | L > g)
    """

    def __init__(self, chances: FloatArray) -> None:
        """`chances`: probability of each length from 1 on."""
        tails = 1.0 - numpy.concatenate([[0.0], numpy.cumsum(chances)])
        self._tails = tails.clip(0.0)
        """P(L > g) for g from 0 to the limit."""
        self._areas = numpy.concatenate([[0.0], numpy.cumsum(self._tails[:-1])])
        """E[min(L, g)]."""

    def after(self, emitted: int) -> float:
        """Return the index of an answer that is longer than `emitted` tokens."""
        ended = self._tails[emitted] - self._tails[emitted + 1 :]
        work = self._areas[emitted + 1 :] - self._areas[emitted]
        with numpy.errstate(divide="ignore", invalid="ignore"):
            index = numpy.where(ended > 1e-12, work / ended, numpy.inf)
        best = float(index.min(initial=numpy.inf))
        return best if best < numpy.inf else float(len(self._tails) - 1 - emitted)
