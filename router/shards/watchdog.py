"""When a group of ranks hangs: a decision from pings, counts of progress and times that are given.

A rank is silent if it leaves a ping unanswered for a moment, and hangs if it does so for too long,
or leaves a grammar unprepared. The group hangs if a Step has begun and no rank makes progress for
too long: one that waits in a collective for another makes none. So a Step that computes never
counts as a hang, however long it takes. How long is too long follows from what the Step should take
at the measured speed, unless the operator has set it.

Nothing here reads a clock or sends anything. Ranks are numbers; what a Step computes is not known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from shard.wire.protocol import Ready, Step

MIN_TIMEOUT_SECONDS = 10.0
"""Minimum of the timeout that is derived from a Step."""
TIMEOUT_FACTOR = 20.0
"""The derived timeout is this many times what the Step should take, if that is more."""
MAX_TIMEOUT_SECONDS = 300.0
"""Maximum of the derived timeout: within a Step, progress shows far more often."""
STEP_HISTORY = 512
"""Number of recent Steps from which the speed is measured."""
PING_INTERVAL_SECONDS = 0.5
"""Minimum time between two pings of a rank."""
SILENCE_SECONDS = 1.25
"""A rank that owes the answer to a ping for longer is silent: it may hang."""
MAX_GAP_SECONDS = 1.0
"""Maximum by which the watchdog's clock advances between two times that it is given."""


def expected_seconds(step: Step, ranks: Sequence[Ready]) -> float:
    """Seconds in which the slowest of `ranks` does `step`, by its costs measured at warm-up.

    An upper estimate: rows are taken to decode one after the other.
    """
    return max(_seconds_on(step, rank) for rank in ranks)


def _seconds_on(step: Step, rank: Ready) -> float:
    prefilled = sum(work.prefill for work in step.run)
    decoding = [work for work in step.run if not work.prefill]
    drafted = sum(work.draft for work in decoding)
    moved = sum(len(move.sources) for move in (step.swap_out, step.copy, step.swap_in))
    return (
        prefilled * rank.prefill_token_seconds
        + len(decoding) * rank.verify_seconds
        + drafted * rank.draft_token_seconds
        + moved * rank.page_size * rank.swap_token_seconds
    )


@dataclass(slots=True)
class _Rank:
    """What one rank has shown, at times of the watchdog's own clock."""

    pinged_at: float | None = None
    """Since when it owes an answer to a ping; None if it has answered all."""
    progress: int = -1
    """The count in its last pong."""
    same_since: float = 0.0
    """When it first showed that count."""
    same_until: float = 0.0
    """When it last showed that count."""

    def show_progress(self, count: int, now: float) -> None:
        """The rank answers its ping."""
        if count != self.progress:
            self.progress, self.same_since = count, now
        self.same_until, self.pinged_at = now, None

    def show_answer(self, now: float) -> None:
        """The rank completes a Step; an open ping may still be answered later."""
        self.same_since = self.same_until = now
        if self.pinged_at is not None:
            self.pinged_at = now


class Watchdog:
    """Watches `world_size` ranks. `timeout` replaces the derived timeout, in seconds.

    Its clock runs with the times it is given, except where they jump: a caller that was itself
    stopped for an hour has heard nothing, but that proves nothing.
    """

    def __init__(self, world_size: int, timeout: float | None) -> None:
        self._ranks = [_Rank() for _ in range(world_size)]
        self._timeout = timeout
        self._steps: deque[float] = deque()
        """What each Step in flight should take, oldest first."""
        self._began_at = 0.0
        """When the oldest Step in flight began, that is when the previous one had completed."""
        self._slowness: deque[float] = deque(maxlen=STEP_HISTORY)
        """What recent Steps took, relative to what they should have taken."""
        self._prepares, self._prepare_began_at = 0, 0.0
        """Grammars that ranks prepare, one after the other, and when the oldest began."""
        self._min_timeout = MIN_TIMEOUT_SECONDS if timeout is None else timeout
        self._clock, self._pinged_at = 0.0, -inf
        self._given: float | None = None
        """The last time that was given."""

    def step_sent(self, seconds: float, now: float) -> None:
        """A Step that should take `seconds` was sent."""
        self._set_clock(now)
        if not self._steps:
            self._began_at = self._clock
        self._steps.append(seconds)

    def step_answered(self, rank: int) -> None:
        """`rank` has completed a Step, which shows as well as a pong that it is alive."""
        self._ranks[rank].show_answer(self._clock)

    def step_completed(self, seconds: float) -> None:
        """All ranks have completed the oldest Step, which took `seconds`."""
        expected = self._steps.popleft()
        if expected > 0:
            self._slowness.append(seconds / expected)
        self._began_at = self._clock

    def prepare_sent(self) -> None:
        """All ranks have to prepare one more grammar."""
        if not self._prepares:
            self._prepare_began_at = self._clock
        self._prepares += 1

    def prepare_completed(self) -> None:
        """All ranks have prepared a grammar."""
        self._prepares -= 1
        self._prepare_began_at = self._clock

    def ponged(self, rank: int, progress: int) -> None:
        """`rank` has answered its ping with its count of progress."""
        self._ranks[rank].show_progress(progress, self._clock)

    def ranks_to_ping(self, now: float) -> list[int]:
        """The ranks to send a ping to, which count as pinged from now on."""
        self._set_clock(now)
        if self._clock - self._pinged_at < PING_INTERVAL_SECONDS:
            return []
        self._pinged_at = self._clock
        chosen = [number for number, rank in enumerate(self._ranks) if rank.pinged_at is None]
        for number in chosen:
            self._ranks[number].pinged_at = self._clock
        return chosen

    def seconds_since_answers(self, now: float) -> tuple[float, ...]:
        """For each rank the seconds since it last answered a ping or completed a Step."""
        clock = self._clock_at(now)
        return tuple(clock - rank.same_until for rank in self._ranks)

    def is_stalled(self, now: float) -> bool:
        """Whether a rank is silent at `now`, or the ranks count as hung."""
        clock = self._clock_at(now)
        pinged = [rank.pinged_at for rank in self._ranks if rank.pinged_at is not None]
        return clock - min(pinged, default=clock) > SILENCE_SECONDS or self.hang(now) is not None

    def hang(self, now: float) -> str | None:
        """Why the ranks count as hung at `now`; None if they do not."""
        clock = self._clock_at(now)
        for number, rank in enumerate(self._ranks):
            if rank.pinged_at is not None and self._is_too_long(clock - rank.pinged_at):
                return f"rank {number} has not answered a ping for {self.timeout():g} s"
        if self._steps and self._is_too_long(self._seconds_without_progress()):
            return f"no rank has made progress in a Step for {self.timeout():g} s"
        if self._prepares and clock - self._prepare_began_at > self._prepare_timeout:
            return f"a grammar has not been prepared for {self._prepare_timeout:g} s"
        return None

    def timeout(self) -> float:
        """Seconds without an answer or without progress that count as a hang, at present."""
        if self._timeout is not None or not self._steps:
            return self._min_timeout
        usual = TIMEOUT_FACTOR * self._steps[0] * self._slowness_p99()
        return min(max(MIN_TIMEOUT_SECONDS, usual), MAX_TIMEOUT_SECONDS)

    @property
    def _prepare_timeout(self) -> float:
        """At least MIN_TIMEOUT_SECONDS: a grammar takes its time whatever a Step may take."""
        return max(MIN_TIMEOUT_SECONDS, self._min_timeout)

    def _is_too_long(self, seconds: float) -> bool:
        return seconds > self._min_timeout and seconds > self.timeout()

    def _seconds_without_progress(self) -> float:
        """Time since the Step began in which no rank's count changed, as far as pongs show."""
        return min(rank.same_until - max(rank.same_since, self._began_at) for rank in self._ranks)

    def _slowness_p99(self) -> float:
        """At least 1: that costs at warm-up were too high does not make a timeout shorter.

        One Step that took longer than all others says nothing about the next one.
        """
        ordered = sorted(self._slowness)[:-1] or [1.0]
        return max(1.0, ordered[len(ordered) * 99 // 100])

    def _set_clock(self, now: float) -> None:
        self._clock, self._given = self._clock_at(now), now

    def _clock_at(self, now: float) -> float:
        """The clock at `now`; a gap counts as MAX_GAP_SECONDS or half a timeout at most."""
        gap = 0.0 if self._given is None else now - self._given
        return self._clock + min(gap, MAX_GAP_SECONDS, self._min_timeout / 2)
