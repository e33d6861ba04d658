"""What goes wrong with a rank, and when: drawn before it starts.

Rule: decides faults. How a rank behaves that has one is for the rank to know.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from random import Random


class Fault(Enum):
    """One thing that goes wrong in the life of a rank."""

    DEATH = auto()
    """The process ends."""
    TRUNCATION = auto()
    """The process ends within the next frame that it sends."""
    FATAL = auto()
    """The rank reports a failure and ends."""
    STOP = auto()
    """The process is stopped: it reads and answers nothing."""
    STALL = auto()
    """The thread that computes hangs; pings are answered."""
    CUT = auto()
    """The connection is closed; the process goes on."""
    JUNK = auto()
    """The rank sends bytes that are not a message."""
    REPETITION = auto()
    """The rank answers a Step twice."""
    CONTRADICTION = auto()
    """The rank reports other rows than it has."""
    SHRINKAGE = auto()
    """The rank has fewer pages than the first one had."""
    SLOWNESS = auto()
    """A Step takes SLOW_SECONDS, which is no failure."""


SLOW_SECONDS = 45.0
LIFETIME_EVENTS = 60.0
"""Mean number of events after which a rank has its fault."""
FAULTY = 0.7
"""Probability that a rank of a run with faults has one."""


@dataclass(frozen=True, slots=True)
class Fate:
    """A rank's fault, at its `event`-th event: a message, or the beginning or end of a Step."""

    fault: Fault | None
    event: int = 0


HEALTHY = Fate(None)


def draw_fate(random: Random) -> Fate:
    """The fate of one rank."""
    if random.random() >= FAULTY:
        return HEALTHY
    return Fate(random.choice(list(Fault)), round(random.expovariate(1 / LIFETIME_EVENTS)))
