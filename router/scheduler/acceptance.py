"""How many draft tokens of a request are accepted, and whether that has become stable.

`AcceptanceCurve` keeps S_k, the probability that the first k drafts of a round are all accepted,
per position: then the expected tokens of any draft length n are 1 + S_1 + ... + S_n, also of
lengths not in use. The mean of S_1..S_n is the accepted fraction A of arXiv 2505.17074, so these
are its n*A + 1. S_k is the product of the probabilities to pass each position once it is reached.
So a position that was not drafted recently builds on those before it, and a round informs only
about positions that it reached.

`AcceptanceStability` is the paper's switch from non-perceptible to perceptible. The paper leaves
its two thresholds open; here gamma is a window in rounds and delta the maximum standard deviation
of the windowed mean. A mean over all rounds would not do: its deviation falls like 1/r in any
case. `AcceptanceCurve.relative_std` is the extension's answer to the same question, and
`PageHinkleyTest` makes it forget.

Knows no request and no Step: it sees the drafted and accepted tokens of one round at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from math import fsum, sqrt
from typing import Any

PRIOR_ROUNDS = 3.0
"""Weight of the prior, in rounds."""
REQUEST_MEMORY_ROUNDS, GLOBAL_MEMORY_ROUNDS = 64.0, 1024.0
"""Effective memory in rounds: of one request, and of all requests together."""
DRIFT_TOLERANCE = 0.1
"""Change of the accepted fraction that a drift must exceed to be noticed."""
DEFAULT_ACCEPTANCE = 0.6
"""Probability that a draft is accepted after those before it, before anything was served."""


class AcceptanceCurve:
    """Posterior means of S_1..S_n, shrunk towards a prior worth some rounds."""

    __slots__ = (
        "_cached_curve",
        "_memory_rounds",
        "_passed",
        "_prior",
        "_prior_rounds",
        "_reached",
        "_source",
    )

    def __init__(
        self,
        prior: Sequence[float],
        memory_rounds: float = REQUEST_MEMORY_ROUNDS,
        prior_rounds: float = PRIOR_ROUNDS,
    ) -> None:
        """`prior`: S_1..S_n before the first round, for n up to the maximum draft length.

        `memory_rounds`: after so many rounds older ones fade. `prior_rounds`: weight of the prior.
        """
        chances = _chances(prior)
        self._memory_rounds, self._prior_rounds = memory_rounds, prior_rounds
        self._prior = chances
        self._passed = [0.0] * len(chances)
        self._reached = [0.0] * len(chances)
        self._cached_curve: tuple[float, ...] | None = None
        """S_1..S_n; None if they must be computed again."""
        self._source: tuple[AcceptanceCurve, int] | None = None
        """The curve that this one follows until its first round with drafts, and its length."""

    @classmethod
    def uninformed(
        cls, max_draft: int, memory_rounds: float = REQUEST_MEMORY_ROUNDS
    ) -> AcceptanceCurve:
        """Nothing observed: each of `max_draft` positions passes with `DEFAULT_ACCEPTANCE`."""
        return cls([DEFAULT_ACCEPTANCE**k for k in range(1, max_draft + 1)], memory_rounds)

    @classmethod
    def following(
        cls,
        source: AcceptanceCurve,
        max_draft: int,
        memory_rounds: float = REQUEST_MEMORY_ROUNDS,
        prior_rounds: float = PRIOR_ROUNDS,
    ) -> AcceptanceCurve:
        """Return a curve that equals `source` up to `max_draft` until its first round with drafts.

        What `source` is then becomes its prior.
        """
        curve = cls(source.truncated(max_draft), memory_rounds, prior_rounds)
        curve._source = source, max_draft
        return curve

    def observe(self, drafted: int, accepted: int) -> None:
        """Learn from one round; `accepted` of `drafted` tokens were kept."""
        if self._source is not None and drafted:
            source, max_draft = self._source
            self._prior, self._source = _chances(source.truncated(max_draft)), None
        seen, kept = self._reached, self._passed
        for k in range(min(drafted, accepted + 1)):
            if seen[k] >= self._memory_rounds:
                seen[k] *= 1 - 1 / self._memory_rounds
                kept[k] *= 1 - 1 / self._memory_rounds
            seen[k] += 1
            kept[k] += k < accepted
        self._cached_curve = None

    @property
    def curve(self) -> tuple[float, ...]:
        """S_1..S_n."""
        if self._source is not None:
            source, max_draft = self._source
            return source.truncated(max_draft)
        if self._cached_curve is None:
            self._cached_curve = self._compute_curve()
        return self._cached_curve

    def learned_state(self) -> dict[str, Any]:
        """Return what was observed, for `restore`."""
        return {"passed": self._passed[:], "reached": self._reached[:]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a learned state, up to this draft length. Raises ValueError if invalid."""
        pairs = zip(state["passed"], state["reached"], strict=True)
        for k, (passed, reached) in enumerate(pairs):
            if not 0 <= passed <= reached < 1e300:
                raise ValueError(f"{passed!r} of {reached!r} drafts passed")
            if k < len(self._prior):
                self._passed[k], self._reached[k] = float(passed), float(reached)
        self._cached_curve = None

    def truncated(self, max_draft: int) -> tuple[float, ...]:
        """Return S_1..S_max_draft, never rising: a draft needs those before it."""
        return self.curve[:max_draft]

    def _compute_curve(self) -> tuple[float, ...]:
        """Expect the difference from the prior at one position at the next one too."""
        survival, better, weight, curve = 1.0, 0.0, self._prior_rounds, []
        for prior, passed, reached in zip(self._prior, self._passed, self._reached, strict=True):
            guess = prior + better
            guess = 0.0 if guess < 0 else min(guess, 1.0)
            chance = (weight * guess + passed) / (weight + reached)
            better = chance - prior
            survival *= chance
            curve.append(survival)
        return tuple(curve)

    def expected_tokens(self, draft: int) -> float:
        """Return the expected tokens of a round with `draft` drafts: the accepted ones and one."""
        return 1.0 + sum(self.curve[:draft])

    def relative_std(self, draft: int) -> float:
        """Return the relative standard deviation of the mean of `expected_tokens(draft)`."""
        if not draft:
            return 0.0
        first = second = 0.0
        for k, chance in enumerate(self.curve[:draft]):
            first += chance
            second += (2 * k + 1) * chance
        variance = max(0.0, second - first * first)
        return sqrt(variance / (self._prior_rounds + self._reached[0])) / (1.0 + first)

    def discount(self, rounds: float) -> None:
        """Reduce the weight of all observations to at most `rounds` rounds."""
        share = min(1.0, rounds / max(rounds, self._reached[0]))
        self._reached = [share * seen for seen in self._reached]
        self._passed = [share * kept for kept in self._passed]
        self._cached_curve = None

    def accepted_fraction(self, draft: int) -> float:
        """Return A, the expected accepted fraction of `draft` > 0 drafts."""
        return fsum(self.truncated(draft)) / draft


def _chances(curve: Sequence[float]) -> list[float]:
    """Return the probability to pass each position once it is reached."""
    before = (1.0, *curve)
    return [s / b if b else 0.0 for b, s in zip(before, curve, strict=False)]


class AcceptanceStability:
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
        """Learn from one round; a round without drafts is ignored."""
        if drafted:
            self._fractions.append(accepted / drafted)
            self._means.append(fsum(self._fractions) / len(self._fractions))

    @property
    def is_stable(self) -> bool:
        """True once `window` successive means lie within `deviation` of each other (s.d.)."""
        if len(self._means) < (self._means.maxlen or 0):
            return False
        centre = fsum(self._means) / len(self._means)
        variance = fsum((mean - centre) ** 2 for mean in self._means) / len(self._means)
        return variance <= self._deviation**2


class PageHinkleyTest:
    """The two-sided test of Page and Hinkley: whether the acceptance of drafts has drifted.

    The sum of the deviations of rounds from their mean, less a tolerance each, is compared with its
    minimum; and the same downwards. By chance alone it seldom rises by `threshold`.
    """

    __slots__ = ("_fall", "_mean", "_rise", "_rounds", "_threshold")

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._mean = self._rise = self._fall = 0.0
        self._rounds = 0

    def observe(self, drafted: int, accepted: int) -> bool:
        """Learn from one round. Return whether a drift is detected, which restarts the test."""
        if not drafted:
            return False
        share = accepted / drafted
        self._rounds += 1
        self._mean += (share - self._mean) / self._rounds
        self._rise = max(0.0, self._rise + share - self._mean - DRIFT_TOLERANCE)
        self._fall = max(0.0, self._fall - share + self._mean - DRIFT_TOLERANCE)
        if max(self._rise, self._fall) <= self._threshold:
            return False
        self._mean = self._rise = self._fall = 0.0
        self._rounds = 0
        return True
