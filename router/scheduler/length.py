"""How long an answer will be, in tokens. First version: what was served lately, nothing else.

The caller's own prediction wins while it can still be true. Once a request has outrun it, or where
there is none, the estimate is the mean of the recent answers longer than what the request has
already emitted, so the remainder never falls to zero while the request lives.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from itertools import accumulate

from router.scheduler.base import Job

RECENT = 256
"""Answers remembered."""
UNKNOWN = 128.0
"""Tokens expected of an answer before anything was served (ours)."""


class Lengths:
    """The lengths of the last `RECENT` answers and what they say about the next."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque()
        self._sorted: list[int] = []
        self._sums: list[int] = [0]
        """`_sums[i]`: sum of the i shortest."""

    def observe(self, tokens: int) -> None:
        """Remember an answer that came to its own end."""
        if len(self._recent) == RECENT:
            self._sorted.remove(self._recent.popleft())
        self._recent.append(tokens)
        insort(self._sorted, tokens)
        self._sums = list(accumulate(self._sorted, initial=0))

    def total(self, job: Job, emitted: int) -> float:
        """Expected length of the answer to `job`, above `emitted` and at most `max_new`."""
        if job.expected is not None and job.expected > emitted:
            return min(job.expected, float(job.max_new))
        return max(self._beyond(emitted, job.max_new), float(min(emitted + 1, job.max_new)))

    def _beyond(self, emitted: int, most: int) -> float:
        """Mean of the recent lengths above `emitted`, each cut off at `most`."""
        low, high = bisect_right(self._sorted, emitted), bisect_right(self._sorted, most)
        longer = len(self._sorted) - low
        if not longer or emitted >= most:
            # Beyond all experience: as much again as there is already.
            return min(max(2.0 * emitted, UNKNOWN), float(most))
        cut = (len(self._sorted) - high) * most
        return (self._sums[high] - self._sums[low] + cut) / longer
