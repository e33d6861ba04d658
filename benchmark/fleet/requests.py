"""What a fleet is asked: chats with long answers among short ones, under shared system prompts.

Everything is a function of its seed. The mixture is skewed on purpose: a quarter of the requests
reason, with answers several times as long as a chat's, and few prefixes have most of the requests,
as Zipf's law has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from benchmark.simulation import workloads
from benchmark.simulation.traces import Trace
from router.scheduler.api import Job

PAGE_SIZE = 16
"""Tokens."""
PREFIXES = 40
"""Number of system prompts."""
PREFIX_TOKENS = 512
ZIPF = 1.1
"""Exponent of the popularity of the prefixes."""
REASONING = 0.25
"""Share of requests with long answers."""
SHRINK = 4.0
"""Divisor of the lengths of answers, to simulate less."""


@dataclass(frozen=True, slots=True)
class FleetRequest:
    """One request with its arrival in seconds."""

    id: int
    arrival: float
    prefix: int
    trace: Trace
    """With the prompt's length after the prefix."""

    def job(self) -> Job:
        """Return the request as a scheduler sees it, with the hashes of its full pages."""
        prompt = PREFIX_TOKENS + self.trace.prompt_tokens
        shared = PREFIX_TOKENS // PAGE_SIZE
        own = range(shared, prompt // PAGE_SIZE)
        hashes = (
            *(_hash(1, self.prefix, page) for page in range(shared)),
            *(_hash(2, self.id, page) for page in own),
        )
        return Job(self.id, self.arrival, prompt, self.trace.max_new, hashes=hashes)


def draw(count: int, rate: float, seed: int) -> list[FleetRequest]:
    """Return `count` requests with Poisson arrivals, `rate` a second."""
    random = numpy.random.default_rng((seed, 7))
    arrivals = numpy.cumsum(random.exponential(1 / rate, count))
    popularity = numpy.arange(1, PREFIXES + 1) ** -ZIPF
    prefixes = random.choice(PREFIXES, count, p=popularity / popularity.sum())
    long = random.random(count) < REASONING
    drawn = _traces(count, seed)
    return [
        FleetRequest(id, float(arrivals[id]), int(prefixes[id]), drawn[bool(long[id])][id])
        for id in range(count)
    ]


def _traces(count: int, seed: int) -> Sequence[Sequence[Trace]]:
    """Return short and long answers."""
    return [
        workloads.traces(workloads.SHAPES[shape], count, seed, shrink=SHRINK)
        for shape in ("chat", "reasoning")
    ]


def _hash(kind: int, owner: int, page: int) -> int:
    """Return an integer that no other page has."""
    return (kind << 60) | (owner << 20) | page
