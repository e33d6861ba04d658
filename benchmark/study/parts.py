"""The simulations of the study: the workloads of each part, and the variants that serve them.

Names workloads and variants only. Part 1 shares its workloads with the figures, so that both are
about the same runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from benchmark.simulation.plans import PolicyVariant, Workload
from benchmark.simulation.workloads import ACCEPTANCE_PATTERNS
from benchmark.study.figures import (
    FCFS,
    FIRST_THRESHOLD,
    LAPS,
    LAS,
    PAPER,
    SHAPES,
    SJF,
    SRPT,
    StudySize,
)

SJF_PREEMPTIVE, ESRPT = PolicyVariant("sjf-preemptive"), PolicyVariant("e-srpt")
POLICIES = (FCFS, LAS, SJF, SJF_PREEMPTIVE, ESRPT, PAPER, LAPS, SRPT)
RHOS = (0.5, 0.8, 0.9, 0.95)
SHAPES_WITH_DEMO = (*SHAPES, "demo")
BATCHES = (1, 2, 4, 8, 16)
MEMORIES = (None, 1.0, 0.5, 0.3)
LEVELS = (1, 2, 3, 4, 6, 8)
STABILITY_RULES = {
    "window 3, delta .08": (3, 0.08),
    "window 4, delta .08": (4, 0.08),
    "window 8, delta .08": (8, 0.08),
    "window 8, delta .02": (8, 0.02),
    "window 12, delta .05": (12, 0.05),
}

Simulations = Iterator[tuple[Workload, Sequence[PolicyVariant]]]


def tasks(size: StudySize) -> dict[Workload, list[PolicyVariant]]:
    """Return the runs that the study needs in addition to the figures, without duplicates."""
    seeds = reduced_seeds(size)
    parts = (policies(size), bursts(size), levels(seeds), batches(seeds), memories(seeds))
    wanted: dict[Workload, list[PolicyVariant]] = {}
    for part in (*parts, patterns(seeds), knobs(seeds)):
        add_simulations(wanted, part)
    return wanted


def reduced_seeds(size: StudySize) -> int:
    """Return the number of seeds outside of the main workloads of part 1."""
    return -(-size.seeds // 2)


def add_simulations(
    wanted: dict[Workload, list[PolicyVariant]],
    more: Iterable[tuple[Workload, Sequence[PolicyVariant]]],
) -> None:
    """Add the runs that are not in `wanted` yet."""
    for load, variants in more:
        known = wanted.setdefault(load, [])
        known.extend(variant for variant in variants if variant not in known)


def poisson(size: StudySize, workload: str, rho: float) -> list[Workload]:
    """Return the workloads of part 1: the seeds of the figures, half of them at other rhos."""
    counts = {**size.counts, "demo": size.counts["chat"]}
    seeds = size.seeds if rho in (0.8, 0.9) and workload != "demo" else reduced_seeds(size)
    return replace(size, seeds=seeds, counts=counts).poisson(workload, rho)


def policies(size: StudySize) -> Simulations:
    """Part 1: every policy, shape and rho."""
    for workload in SHAPES_WITH_DEMO:
        for rho in RHOS:
            yield from ((load, POLICIES) for load in poisson(size, workload, rho))


def bursts(size: StudySize) -> Simulations:
    """Part 2: latency by number of requests."""
    for shape in SHAPES:
        for count in size.bursts:
            variants = (FCFS, LAS, SJF, PAPER, LAPS, SRPT)
            yield from ((load, variants) for load in size.burst(shape, count))


def paper_with_queues(count: int) -> PolicyVariant:
    """Return the paper's algorithm with this number of queues."""
    return replace(PAPER, flags=(("laps_levels", count),))


def level_workloads(name: str, seeds: int) -> list[Workload]:
    """Part 2: chat in small and large bursts, and as a stream."""
    loads = {
        "burst of 10": [Workload("chat", seed, 10, None) for seed in range(6 * seeds)],
        "burst of 30": [Workload("chat", seed, 30, None) for seed in range(2 * seeds)],
        "Poisson 0.8": [Workload("chat", seed, 200, 0.8) for seed in range(seeds)],
        "Poisson 0.9": [Workload("chat", seed, 200, 0.9) for seed in range(seeds)],
    }
    return loads[name]


LEVEL_WORKLOADS = ("burst of 10", "burst of 30", "Poisson 0.8", "Poisson 0.9")


def levels(seeds: int) -> Simulations:
    """Parts 2 and 3: the number of queues, and a rank without queues."""
    for name in LEVEL_WORKLOADS:
        for load in level_workloads(name, seeds):
            yield load, [*map(paper_with_queues, LEVELS), LAPS, SRPT]


def batch_workloads(batch: int, rho: float | None, seeds: int) -> list[Workload]:
    """Part 3: chat with more rows; at `rho`, or with thirty requests per row at once."""
    count = 150 + 30 * batch if rho else 30 * batch
    depth = 1 if batch == 1 else 2
    return [Workload("chat", seed, count, rho, batch, depth) for seed in range(seeds)]


BATCH_VARIANTS = (FCFS, LAS, SJF, LAPS, SRPT)


def batches(seeds: int) -> Simulations:
    """Part 3: more than one row."""
    for batch in BATCHES:
        for rho in (0.9, None):
            yield from ((load, BATCH_VARIANTS) for load in batch_workloads(batch, rho, seeds))


MEMORY_VARIANTS = {
    "fcfs": FCFS,
    "sjf": SJF,
    "laps-sd": LAPS,
    "srpt, real switches": SRPT,
}


def memory_workloads(memory: float | None, seeds: int) -> list[Workload]:
    """Part 3: eight rows with less memory."""
    return [
        Workload("chat", seed, 300, 0.9, batch=8, depth=2, memory=memory) for seed in range(seeds)
    ]


def memories(seeds: int) -> Simulations:
    """Part 3: preemptions that cost something."""
    for memory in MEMORIES:
        yield from (
            (load, list(MEMORY_VARIANTS.values())) for load in memory_workloads(memory, seeds)
        )


def paper_with_rule(window: int, deviation: float) -> PolicyVariant:
    """Return the paper's algorithm with other stability thresholds."""
    return replace(PAPER, flags=(("laps_window", window), ("laps_deviation", deviation)))


def laps_with_queues(*flags: tuple[str, Any]) -> PolicyVariant:
    """Return LAPS-SD's estimates in the paper's queues."""
    queues = (("laps_rank", "queues"), ("laps_join", "first"), ("laps_patience", 1e9))
    return replace(LAPS, first_threshold=FIRST_THRESHOLD, flags=(*queues, *flags))


PERCEPTIONS = {
    "our lengths, window 4, delta .08": laps_with_queues(("laps_perception", "window")),
    "our lengths, soft, width .2": laps_with_queues(),
    "our lengths, soft, width .3": laps_with_queues(("laps_width", 0.3)),
    "LAPS-SD, no queues": LAPS,
}
"""Soft perception, by the posterior deviation and with a way back, and the paper's rule."""


def pattern_variants() -> dict[str, PolicyVariant]:
    """Return the paper's rules, then those of LAPS-SD."""
    return {
        **{name: paper_with_rule(*thresholds) for name, thresholds in STABILITY_RULES.items()},
        **PERCEPTIONS,
    }


def pattern_workloads(acceptance_pattern: str, seeds: int) -> list[Workload]:
    """Part 3: acceptance that changes along the answer."""
    return [
        Workload("chat", seed, 200, 0.8, acceptance_pattern=acceptance_pattern)
        for seed in range(seeds)
    ]


def patterns(seeds: int) -> Simulations:
    """Part 3: robustness of stability detection."""
    variants = [*pattern_variants().values(), SRPT]
    for pattern in ACCEPTANCE_PATTERNS:
        yield from ((load, variants) for load in pattern_workloads(pattern, seeds))


KNOBS = {
    "M 1.5": (("laps_ratio", 1.5),),
    "M 2 (default)": (),
    "M 4": (("laps_ratio", 4.0),),
    "M 8": (("laps_ratio", 8.0),),
}
FIRST_THRESHOLDS = {
    f"Sup_1 {share:.0%} of mean service": share for share in (0.05, FIRST_THRESHOLD, 0.3, 0.6)
}


def knob_variants() -> dict[str, PolicyVariant]:
    """Part 4: the open parameters of the paper, one at a time."""
    ratios = {name: replace(PAPER, flags=flags) for name, flags in KNOBS.items()}
    firsts = {
        name: replace(PAPER, first_threshold=first) for name, first in FIRST_THRESHOLDS.items()
    }
    return {
        **ratios,
        **firsts,
        **{name: paper_with_rule(*thresholds) for name, thresholds in STABILITY_RULES.items()},
    }


def knob_workloads(shape: str, seeds: int) -> list[Workload]:
    """Part 4: two shapes whose answers are short and long in rounds."""
    return [Workload(shape, seed, 200, 0.8) for seed in range(seeds)]


def knobs(seeds: int) -> Simulations:
    """Part 4: values of M, Sup_1, gamma and delta."""
    for shape in ("chat", "code"):
        yield from (
            (load, [*knob_variants().values(), LAS, SRPT]) for load in knob_workloads(shape, seeds)
        )
