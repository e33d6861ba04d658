"""How long an answer will be: a distribution learned from answers, and callers' predictions.

The logarithm of a length is modelled as normal. Its mean is learned for all answers, for a route,
for prompts of a size on that route, and for a limit on the answer there: each shrunk towards the
one before, so that a rare kind of request is estimated like the more common one. A caller's
prediction (hint) x is calibrated: with m the mean of the kind and y the logarithm of the true
length,

    y - m = a + b (log x - m) + noise

is fitted as answers end, starting from a = 0 and b = 1, the hint as it is. So a noisy hint gets a
small b, a hint that is the wrong way round a negative one, and a useless one b = 0, which leaves
the learned distribution. With `raw_hints` hints are taken as they are, as published policies do.

Knows nothing of acceptance and time.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log, sqrt
from typing import Any, Protocol

from router.scheduler.api import Job
from router.scheduler.estimation.lognormal import LogNormal

DEFAULT_LOG_LENGTH = log(128.0)
"""Mean logarithm of a length before anything was served."""
DEFAULT_STD, DEFAULT_HINT_STD = 1.0, 0.4
"""Standard deviations of the logarithm from the learned mean and from a hint, before any answer."""
PRIOR_WEIGHT = 4.0
"""Weight in answers of the mean of a kind in rarer kinds, and of the first deviations."""
FIT_PRIOR = ((10.0, 0.0, 4.0), (0.0, 4.0))
"""Prior of the fit: number of hints, their sum and squares, and the products; then b is 1."""
MEMORY_ANSWERS = 256.0
"""Effective memory in answers."""
MAX_HINT_RATIO = 4.0
"""Maximum ratio of a hint to the limit of the answer."""
MAX_KINDS = 1024
"""Maximum number of kinds that are remembered."""


class LengthPredictor(Protocol):
    """Predicts the lengths of answers."""

    version: int
    """Increases whenever predictions have changed."""

    def distribution(self, job: Job) -> LogNormal:
        """Return the distribution for the answer to `job`; sigma is 0 for a raw hint."""

    def without_hint(self, job: Job) -> LogNormal:
        """Return the distribution without the hint."""

    def observe(self, job: Job, tokens: int) -> None:
        """Learn from an answer that ended by itself or at its limit, after `tokens` tokens."""

    def learned_state(self) -> dict[str, Any]:
        """Return what was learned, for `restore`."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a learned state. Raises ValueError, KeyError or TypeError otherwise."""


class LearnedLengths:
    """The predictor that is described above."""

    def __init__(self, *, raw_hints: bool = False) -> None:
        self.version = 0
        self._raw_hints = raw_hints
        self._kinds: dict[tuple[int, ...], list[float]] = {}
        """Weight and mean logarithm by kind."""
        self._variance = [PRIOR_WEIGHT, DEFAULT_STD**2]
        self._hint_variance = [PRIOR_WEIGHT, DEFAULT_HINT_STD**2]
        self._fit_sums = [0.0] * 5
        """Weight, sums of u, uu, v and uv, where u is a hint's logarithm less m, and v is y - m."""
        self._calibration = (0.0, 1.0)

    def distribution(self, job: Job) -> LogNormal:
        if job.expected is None:
            return self.without_hint(job)
        hint = _log_hint(job.expected, job)
        if self._raw_hints:
            return LogNormal(exp(hint), 0.0)
        mean, (start, slope) = self._mean_log_length(job), self._calibration
        return LogNormal(exp(mean + start + slope * (hint - mean)), sqrt(self._hint_variance[1]))

    def without_hint(self, job: Job) -> LogNormal:
        return LogNormal(exp(self._mean_log_length(job)), sqrt(self._variance[1]))

    def observe(self, job: Job, tokens: int) -> None:
        true, mean = log(max(1, tokens)), self._mean_log_length(job)
        _update_mean(self._variance, (true - mean) ** 2)
        if job.expected is not None:
            self._calibrate(_log_hint(job.expected, job) - mean, true - mean)
        for kind in _job_kinds(job):
            known = self._kinds.pop(kind, [0.0, 0.0])
            _update_mean(known, true)
            self._kinds[kind] = known  # the least recently used comes first
        while len(self._kinds) > MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        self.version += 1

    def learned_state(self) -> dict[str, Any]:
        kinds = [[list(kind), *known] for kind, known in self._kinds.items()]
        return {
            "kinds": kinds,
            "spread": self._variance[:],
            "hint_spread": self._hint_variance[:],
            "fit": self._fit_sums[:],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        kinds = {
            tuple(int(part) for part in kind): _finite_floats(known, 2)
            for kind, *known in state["kinds"]
        }
        spread, hint_spread = (
            _finite_floats(state["spread"], 2),
            _finite_floats(state["hint_spread"], 2),
        )
        fit = _finite_floats(state["fit"], 5)
        if min(*spread, *hint_spread, fit[0], fit[2]) < 0:
            raise ValueError("a weight or a square is negative")
        self._kinds, self._variance, self._hint_variance, self._fit_sums = (
            kinds,
            spread,
            hint_spread,
            fit,
        )
        self._calibration = _fit_line(fit)

    def _mean_log_length(self, job: Job) -> float:
        mean = DEFAULT_LOG_LENGTH
        for kind in _job_kinds(job):
            known = self._kinds.get(kind)
            if known is None:
                break
            mean = (PRIOR_WEIGHT * mean + known[0] * known[1]) / (PRIOR_WEIGHT + known[0])
        return mean

    def _calibrate(self, hint: float, true: float) -> None:
        start, slope = self._calibration
        _update_mean(self._hint_variance, (true - start - slope * hint) ** 2)
        keep = 1 - 1 / MEMORY_ANSWERS
        terms = (1.0, hint, hint * hint, true, hint * true)
        self._fit_sums = [keep * old + new for old, new in zip(self._fit_sums, terms, strict=True)]
        self._calibration = _fit_line(self._fit_sums)


def _job_kinds(job: Job) -> tuple[tuple[int, ...], ...]:
    """Return the kinds of `job` from the most common on; sizes by powers of two."""
    prompt, limit = job.prompt.bit_length(), job.max_new.bit_length()
    return (), (job.route,), (job.route, prompt), (job.route, prompt, limit)


def _log_hint(hint: float, job: Job) -> float:
    """Return the logarithm of a hint; above the limit it says how certainly that is reached."""
    return log(min(max(1.0, hint), MAX_HINT_RATIO * job.max_new))


def _update_mean(weighted_mean: list[float], value: float) -> None:
    """Add one value to a weight and a mean."""
    weighted_mean[0] = min(weighted_mean[0] + 1, MEMORY_ANSWERS)
    weighted_mean[1] += (value - weighted_mean[1]) / weighted_mean[0]


def _fit_line(sums: list[float]) -> tuple[float, float]:
    """Return a and b by least squares with the prior."""
    weight, first, square = (a + b for a, b in zip(sums[:3], FIT_PRIOR[0], strict=True))
    right, product = sums[3] + FIT_PRIOR[1][0], sums[4] + FIT_PRIOR[1][1]
    determinant = weight * square - first * first
    start = (square * right - first * product) / determinant
    return start, (weight * product - first * right) / determinant


def _finite_floats(values: Any, count: int) -> list[float]:
    numbers = [float(value) for value in values]
    if len(numbers) != count or not all(abs(number) < 1e300 for number in numbers):
        raise ValueError(f"{count} finite numbers expected, got {values!r}")
    return numbers
