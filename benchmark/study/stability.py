"""Detection of stable acceptance, replayed on traces without scheduling.

A request runs alone in rounds of `DRAFT` drafts. After every round a rule decides whether its
acceptance is stable, which makes it perceptible. Rules: the deviation of the last `window` means is
at most `deviation`, where a mean is over the last `window` rounds, over all rounds so far, or
exponentially weighted. A detection is false if the accepted fraction of the rest of the request
differs by more than `MAX_ERROR` from the estimate. The true point is the first round from which on
the estimate, a mean over all rounds shrunk to the shape's, stays within `MAX_ERROR` of the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from statistics import fmean, median

from benchmark.simulation.traces import Trace, agreement_runs

DRAFT = 5
MAX_ERROR = 0.1
PRIOR_ROUNDS = 3.0
MIN_REMAINING_ROUNDS = 8
"""Minimum number of remaining rounds to judge an estimate by."""
MEAN_KINDS = ("windowed", "cumulative", "weighted")
WINDOWS = (2, 3, 4, 6, 8, 12)
DEVIATIONS = (0.02, 0.05, 0.08, 0.12)


@dataclass(frozen=True, slots=True)
class Detection:
    """Results of one rule on many requests; fractions of all of them."""

    never: float
    """Requests that ended before they were detected as stable."""
    false: float
    """Detected as stable, with an error of more than `MAX_ERROR` afterwards."""
    delay: float
    """Median rounds from the true point to the detection; negative: too early."""
    error: float
    """Mean relative error of the estimated remaining rounds at detection, true length given."""


def fractions(trace: Trace, draft: int = DRAFT) -> list[float]:
    """Return the accepted fraction of every round."""
    runs, position, rounds = agreement_runs(trace.agrees), 0, list[float]()
    while position < trace.length:
        accepted = min(runs[position], draft)
        rounds.append(accepted / draft)
        position += accepted + 1
    return rounds


def detect(rounds: Sequence[float], kind: str, window: int, deviation: float) -> int | None:
    """Return the rounds until the rule detects stability; None if it never does."""
    recent: deque[float] = deque(maxlen=window)
    means: deque[float] = deque(maxlen=window)
    total = weighted = 0.0
    for count, fraction in enumerate(rounds, 1):
        recent.append(fraction)
        total += fraction
        weighted = fraction if count == 1 else weighted + 2 / (window + 1) * (fraction - weighted)
        mean = {"windowed": fsum(recent) / len(recent), "cumulative": total / count}
        means.append(mean.get(kind, weighted))
        if len(means) == window and _deviation(means) <= deviation:
            return count
    return None


def evaluate(traces: Sequence[Trace], kind: str, window: int, deviation: float) -> Detection:
    """Evaluate one rule on many requests."""
    prior = fmean(fraction for trace in traces for fraction in fractions(trace))
    delays, errors, false = list[float](), list[float](), 0
    for trace in traces:
        rounds = fractions(trace)
        seen = detect(rounds, kind, window, deviation)
        if seen is None or seen >= len(rounds):
            continue
        estimate, rest = _shrunk_mean(rounds[:seen], prior), fmean(rounds[seen:])
        false += abs(estimate - rest) > MAX_ERROR
        errors.append(abs((1 + DRAFT * rest) / (1 + DRAFT * estimate) - 1))
        delays.append(seen - true_point(rounds, prior))
    count = len(traces)
    return Detection(
        1 - len(errors) / count, false / count, median(delays or [0.0]), fmean(errors or [0.0])
    )


def true_point(rounds: Sequence[float], prior: float) -> int:
    """Return the first round after which the estimate stays within `MAX_ERROR` of the rest."""
    seen, rest, left = _shrunk_sum(prior), fsum(rounds), len(rounds)
    last_off = 0
    for count, fraction in enumerate(rounds[:-1], 1):
        seen, rest, left = seen + fraction, rest - fraction, left - 1
        enough = left >= MIN_REMAINING_ROUNDS
        if enough and abs(seen / (PRIOR_ROUNDS + count) - rest / left) > MAX_ERROR:
            last_off = count
    return last_off + 1


def _shrunk_mean(rounds: Sequence[float], prior: float) -> float:
    return (_shrunk_sum(prior) + fsum(rounds)) / (PRIOR_ROUNDS + len(rounds))


def _shrunk_sum(prior: float) -> float:
    return PRIOR_ROUNDS * prior


def _deviation(means: Sequence[float]) -> float:
    centre = fsum(means) / len(means)
    return sqrt(fsum((mean - centre) ** 2 for mean in means) / len(means))
