"""Generated requests in the shapes of the paper's three data sets, and their arrivals.

The paper's names and sizes are known; the distributions are assumptions: output lengths are
log-normal and truncated at the client's limit; the probability that a draft token is right is a
first-order autoregression along the output around the request's own level, with more noise early.
Three more acceptance patterns test policies that assume a constant level: a late drift, a switch, a
decay.

Everything is a function of its seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import exp, log

import numpy
from numpy.typing import NDArray

from benchmark.simulation.simulator import SimulatedRequest
from benchmark.simulation.traces import Trace

FloatArray = NDArray[numpy.float64]

ACCEPTANCE_PATTERNS = ("steady", "drift", "switch", "decay")
"""How the level of a request's acceptance changes along its output."""


@dataclass(frozen=True, slots=True)
class WorkloadShape:
    """What requests of one kind look like. Lengths are in tokens."""

    name: str
    data_set: str
    """The data set of the paper that it imitates."""
    output: tuple[float, float]
    """Median, and standard deviation of the logarithm."""
    prompt: tuple[float, float]
    max_new: int
    level: tuple[float, float]
    """Mean over requests of the probability that a draft token is right, and its deviation."""


SHAPES = {
    shape.name: shape
    for shape in (
        WorkloadShape(
            "chat", "chatbot_instruction_prompts", (90, 0.9), (40, 0.7), 512, (0.55, 0.13)
        ),
        WorkloadShape("code", "mbpp", (70, 0.55), (60, 0.4), 512, (0.72, 0.08)),
        WorkloadShape("reasoning", "MiniThinky", (600, 0.7), (70, 0.6), 1792, (0.60, 0.12)),
    )
}

CORRELATION = 0.9
"""Correlation of the acceptance probability between adjacent positions."""
LEVEL_NOISE = 0.1
"""Standard deviation of the probability around the request's level, late in the output."""
EARLY_NOISE, EARLY_NOISE_TOKENS = 1.5, 20.0
"""Factor of additional noise at the first token; it decays as e^(-position/EARLY_NOISE_TOKENS)."""
MAX_PROMPT = 256
MAX_DECLINE = 0.3
"""Maximum decrease of the probability by drift, switch and decay."""


def traces(
    shape: WorkloadShape,
    count: int,
    seed: int,
    acceptance_pattern: str = "steady",
    shrink: float = 1.0,
) -> list[Trace]:
    """Generate `count` requests; `shrink` divides output lengths and their limit.

    Raises ValueError for an unknown acceptance pattern.
    """
    random = numpy.random.default_rng((seed, 1))
    median, deviation = shape.output
    max_new = max(2, round(shape.max_new / shrink))
    lengths = _lognormal(random, median / shrink, deviation, count, max_new)
    prompts = _lognormal(random, *shape.prompt, count, MAX_PROMPT)
    levels = random.normal(*shape.level, count).clip(0.05, 0.95)
    agrees = _agrees(random, levels, lengths, acceptance_pattern)
    return [
        Trace(shape.name, int(prompt), max_new, bits[:length].tobytes())
        for prompt, length, bits in zip(prompts, lengths, agrees, strict=True)
    ]


def _lognormal(
    random: numpy.random.Generator, median: float, deviation: float, count: int, limit: int
) -> NDArray[numpy.int64]:
    drawn = median * numpy.exp(deviation * random.standard_normal(count))
    return numpy.clip(numpy.rint(drawn), 1, limit).astype(numpy.int64)


def _agrees(
    random: numpy.random.Generator,
    levels: FloatArray,
    lengths: NDArray[numpy.int64],
    acceptance_pattern: str,
) -> NDArray[numpy.uint8]:
    """Return 1 where the draft is right: a row per request, a column per position."""
    longest = int(lengths.max())
    agrees = numpy.empty((len(levels), longest), numpy.uint8)
    around = random.standard_normal(len(levels))
    fresh = (1 - CORRELATION**2) ** 0.5
    for position in range(longest):
        around = CORRELATION * around + fresh * random.standard_normal(len(levels))
        noise = LEVEL_NOISE * (1 + EARLY_NOISE * exp(-position / EARLY_NOISE_TOKENS)) * around
        chance = levels - MAX_DECLINE * _decline(acceptance_pattern, position / lengths) + noise
        agrees[:, position] = random.random(len(levels)) < chance
    return agrees


def _decline(acceptance_pattern: str, progress: FloatArray) -> FloatArray:
    """Return how far the level has fallen at this fraction of the output, from 0 to 1."""
    match acceptance_pattern:
        case "steady":
            return numpy.zeros_like(progress)
        case "drift":  # level until half of the output, then down
            return numpy.clip(2 * progress - 1, 0, 1)
        case "switch":
            return (progress >= 0.4).astype(numpy.float64)
        case "decay":
            return numpy.clip(progress, 0, 1)
    raise ValueError(
        f"acceptance pattern {acceptance_pattern!r} is not one of {', '.join(ACCEPTANCE_PATTERNS)}"
    )


def predictions(
    requests: Sequence[Trace], sigma: float, seed: int, reverse: bool = False
) -> list[float]:
    """Return predicted output tokens: true ones times e^(sigma * standard normal).

    `reverse`: the shortest request gets the longest prediction, and so on.
    """
    random = numpy.random.default_rng((seed, 2))
    lengths = [float(trace.length) for trace in requests]
    if reverse:
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        mirrored = {a: lengths[b] for a, b in zip(order, reversed(order), strict=True)}
        lengths = [mirrored[place] for place in range(len(lengths))]
    noise = random.standard_normal(len(lengths))
    return [exp(log(n) + sigma * z) for n, z in zip(lengths, noise, strict=True)]


def burst(requests: Sequence[Trace], expected: Sequence[float] | None) -> list[SimulatedRequest]:
    """Return requests that arrive all at once."""
    return _requests([0.0] * len(requests), requests, expected)


def waves(
    requests: Sequence[Trace],
    expected: Sequence[float] | None,
    sizes: Sequence[int],
    seconds_per_request: float,
) -> list[SimulatedRequest]:
    """Return bursts of these sizes, each when a busy server is done with the one before."""
    starts = [seconds_per_request * done for done in accumulate((0, *sizes[:-1]))]
    times = [at for at, size in zip(starts, sizes, strict=True) for _ in range(size)]
    return _requests(times, requests, expected)


def poisson(
    requests: Sequence[Trace],
    expected: Sequence[float] | None,
    rate: float,
    seed: int,
    backlog: int = 0,
) -> list[SimulatedRequest]:
    """Return Poisson arrivals at `rate` per second; the first `backlog` arrive at once."""
    gaps = numpy.random.default_rng((seed, 3)).exponential(1 / rate, len(requests))
    gaps[:backlog] = 0.0
    return _requests([float(time) for time in numpy.cumsum(gaps)], requests, expected)


def _requests(
    times: Sequence[float], requests: Sequence[Trace], expected: Sequence[float] | None
) -> list[SimulatedRequest]:
    guesses: Sequence[float | None] = expected or [None] * len(requests)
    return [
        SimulatedRequest(id, at, trace, guess)
        for id, (at, trace, guess) in enumerate(zip(times, requests, guesses, strict=True), 1)
    ]
