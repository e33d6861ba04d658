"""What is known of a request's drafts: how many survive, and whether that has settled.

`Survival` keeps S_k, the chance that the first k drafts of a round are all accepted, per position,
because then the yield of any draft length n is 1 + S_1 + ... + S_n, also of lengths not in use.
The mean of S_1..S_n is the accepted fraction A of arXiv 2505.17074, so n*A + 1 is that yield.

`Stability` is the paper's switch from non-perceptible to perceptible. The paper leaves its two
thresholds open; here gamma is a window in rounds and delta the largest standard deviation of the
windowed mean. A mean over all rounds would not do: its deviation falls like 1/r whatever happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from math import fsum

PRIOR_ROUNDS = 3.0
"""What the prior counts for, in rounds."""
UNKNOWN = 0.6
"""Chance that a draft is accepted after its predecessors, before anything was served (ours)."""


class Survival:
    """Posterior means of S_1..S_n, shrunk towards a prior worth `PRIOR_ROUNDS` rounds."""

    __slots__ = ("_accepted", "_drafted", "_prior")

    def __init__(self, prior: Sequence[float]) -> None:
        """`prior`: S_1..S_n before the first round; its length is the longest draft."""
        self._prior = tuple(prior)
        self._drafted = [0] * len(self._prior)
        self._accepted = [0] * len(self._prior)

    @classmethod
    def unknown(cls, longest: int) -> Survival:
        """Nothing observed: each of `longest` positions passes with chance `UNKNOWN`."""
        return cls([UNKNOWN**k for k in range(1, longest + 1)])

    def observe(self, drafted: int, accepted: int) -> None:
        """Learn from one round; `accepted` of `drafted` tokens were kept."""
        for k in range(drafted):
            self._drafted[k] += 1
        for k in range(accepted):
            self._accepted[k] += 1

    def curve(self, longest: int) -> tuple[float, ...]:
        """S_1..S_longest, never rising: a draft survives only if those before it do."""
        observed = zip(
            self._accepted[:longest], self._drafted[:longest], self._prior[:longest], strict=True
        )
        return tuple(accumulate((_shrunk(*position) for position in observed), min))

    def tokens(self, draft: int) -> float:
        """Expected tokens of a round with `draft` drafts: the accepted ones and one more."""
        return 1.0 + fsum(self.curve(draft))

    def fraction(self, draft: int) -> float:
        """A: expected share of `draft` > 0 drafts that are accepted."""
        return fsum(self.curve(draft)) / draft


def _shrunk(accepted: int, drafted: int, prior: float) -> float:
    return (accepted + PRIOR_ROUNDS * prior) / (drafted + PRIOR_ROUNDS)


class Stability:
    """Whether the mean acceptance of the last rounds has stopped moving."""

    __slots__ = ("_deviation", "_fractions", "_means")

    def __init__(self, window: int, deviation: float) -> None:
        """Raises ValueError unless `window` rounds are positive and `deviation` not negative."""
        if window < 1 or deviation < 0:
            raise ValueError(f"no stability in {window} rounds within {deviation}")
        self._deviation = deviation
        self._fractions: deque[float] = deque(maxlen=window)
        self._means: deque[float] = deque(maxlen=window)

    def observe(self, drafted: int, accepted: int) -> None:
        """Learn from one round; a round without drafts says nothing."""
        if drafted:
            self._fractions.append(accepted / drafted)
            self._means.append(fsum(self._fractions) / len(self._fractions))

    @property
    def stable(self) -> bool:
        """True once `window` successive means lie within `deviation` of each other (s.d.)."""
        if len(self._means) < (self._means.maxlen or 0):
            return False
        centre = fsum(self._means) / len(self._means)
        variance = fsum((mean - centre) ** 2 for mean in self._means) / len(self._means)
        return variance <= self._deviation**2
