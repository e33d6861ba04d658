"""Tokens of the last seconds and their delays, for a live view; `/metrics` has the whole history.

Bounded, whatever the load: counts are kept per quarter of a second, delays in two windows of fixed
length. Time is an argument. Who looks at it, and when, is not known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

BUCKET_SECONDS = 0.25
RATE_BUCKETS = 8
"""Whole buckets over which the rate is averaged: two seconds."""
DELAY_WINDOW_SECONDS = 30.0
MAX_DELAYS = 2048
"""Maximum number of delays of a kind that are kept."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Quantiles of recent delays in seconds; None without any."""

    p50: float | None
    p90: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class ActivitySummary:
    """The activity of the last seconds."""

    tokens_per_second: float
    """Output tokens, averaged over the last two seconds."""
    first_token: Quantiles
    """Delays from the arrival of a request to its first token."""
    inter_token: Quantiles
    """Delays between the tokens of a request; tokens that arrive together share theirs."""


class RecentActivity:
    """The recent tokens of one server."""

    def __init__(self) -> None:
        self._buckets: deque[tuple[int, int]] = deque(maxlen=RATE_BUCKETS + 1)
        """Number of a quarter of a second, and its tokens; oldest first."""
        self._first_token: deque[tuple[float, float]] = deque(maxlen=MAX_DELAYS)
        self._inter_token: deque[tuple[float, float]] = deque(maxlen=MAX_DELAYS)
        """When it was observed, and the delay."""

    def add_first(self, count: int, delay: float, now: float) -> None:
        """`count` > 0 tokens of a request arrived, its first ones, `delay` s after the request."""
        self._first_token.append((now, delay))
        self._count(count, now)

    def add_next(self, count: int, delay: float, now: float) -> None:
        """`count` > 0 tokens of a request arrived, `delay` seconds after those before."""
        self._inter_token.append((now, delay / count))
        self._count(count, now)

    def summary(self, now: float) -> ActivitySummary:
        """The activity up to `now`."""
        current = int(now / BUCKET_SECONDS)
        counts = [n for number, n in self._buckets if current - RATE_BUCKETS <= number < current]
        since = now - DELAY_WINDOW_SECONDS
        return ActivitySummary(
            sum(counts) / (RATE_BUCKETS * BUCKET_SECONDS),
            _quantiles(delay for time, delay in self._first_token if time >= since),
            _quantiles(delay for time, delay in self._inter_token if time >= since),
        )

    def _count(self, tokens: int, now: float) -> None:
        current = int(now / BUCKET_SECONDS)
        if self._buckets and self._buckets[-1][0] == current:
            tokens += self._buckets.pop()[1]
        self._buckets.append((current, tokens))


def _quantiles(delays: Iterable[float]) -> Quantiles:
    """The nearest ranks."""
    ordered = sorted(delays)
    if not ordered:
        return Quantiles(None, None, None)
    p50, p90, p99 = (ordered[(len(ordered) - 1) * share // 100] for share in (50, 90, 99))
    return Quantiles(p50, p90, p99)
