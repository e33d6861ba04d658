"""When the shards may be started again after a failure: with a growing delay, and not too often.

Shards that are started again and take far longer to load than before have failed too.

Pure: time is an argument.
"""

from __future__ import annotations

from collections import deque

MAX_RESTARTS = 5
"""Maximum number of restarts within WINDOW_SECONDS."""
WINDOW_SECONDS = 300.0
FIRST_DELAY_SECONDS = 0.25
"""Delay of a restart when there was none within WINDOW_SECONDS; each one since then doubles it."""
MIN_LOAD_TIMEOUT_SECONDS = 120.0
LOAD_TIMEOUT_FACTOR = 10.0


def load_timeout(seconds: float) -> float:
    """Seconds after which ranks that took `seconds` to load the last time count as hung."""
    return max(MIN_LOAD_TIMEOUT_SECONDS, LOAD_TIMEOUT_FACTOR * seconds)


class RestartHistory:
    """The restarts of the last WINDOW_SECONDS."""

    def __init__(self) -> None:
        self._times: deque[float] = deque()

    def next_delay(self, now: float) -> float | None:
        """Seconds to wait before one more restart, which counts from `now`; None if too many."""
        while self._times and self._times[0] <= now - WINDOW_SECONDS:
            self._times.popleft()
        if len(self._times) == MAX_RESTARTS:
            return None
        self._times.append(now)
        return FIRST_DELAY_SECONDS * 2.0 ** (len(self._times) - 1)
