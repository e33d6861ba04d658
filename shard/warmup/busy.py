"""When Steps use one thread because other processes keep the cores busy.

Threads of a product wait for each other. If another process takes one core, a product on all cores
can take twenty times as long, because each wait may last as long as the other's turn. A Step that
takes much longer than the same Step once took is suspect, and two in a row make Steps compute with
one thread, for a time that doubles while the machine stays busy. If one thread is not faster then,
the Step was slow for another reason, such as a long context, and all threads go on.

Pure: time is an argument.
"""

from __future__ import annotations

from math import inf

SLOW_FACTOR = 3.0
"""A Step of more than this times the fastest of its size is suspect."""
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 1.0, 30.0
"""Time for which one thread computes after the first suspicion, and at most."""
SUSPECT_STEPS = 2


class BusyMachine:
    """Times of Steps on many threads, by the power of two of their number of tokens."""

    def __init__(self) -> None:
        self._fastest: dict[int, float] = {}
        self._suspect: dict[int, float] = {}
        """Of the Steps that led to the pause, the time of the last one."""
        self._suspects = 0
        self._pause = FIRST_PAUSE_SECONDS
        self._paused_until = -inf

    def is_busy(self, now: float) -> bool:
        """Whether a Step that begins at `now` uses one thread."""
        return now < self._paused_until

    def record(self, tokens: int, seconds: float, many_threads: bool, now: float) -> None:
        """A Step that fed `tokens` tokens has taken `seconds` until `now`."""
        size = tokens.bit_length()
        if many_threads:
            self._record_many(size, seconds, now)
        elif self.is_busy(now) and seconds >= (suspect := self._suspect.pop(size, inf)):
            self._fastest[size] = suspect  # all threads were not the reason
            self._paused_until, self._pause = -inf, FIRST_PAUSE_SECONDS

    def _record_many(self, size: int, seconds: float, now: float) -> None:
        fastest = self._fastest.setdefault(size, seconds)
        if seconds <= SLOW_FACTOR * fastest:
            self._fastest[size] = min(fastest, seconds)
            self._suspects, self._pause = 0, FIRST_PAUSE_SECONDS
            return
        self._suspects += 1
        if self._suspects >= SUSPECT_STEPS or self._pause > FIRST_PAUSE_SECONDS:
            self._suspects, self._suspect = 0, {size: seconds}
            self._paused_until = now + self._pause
            self._pause = min(2 * self._pause, MAX_PAUSE_SECONDS)
