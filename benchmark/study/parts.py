"""The simulations of the study: for every part the loads and the arms that serve them.

Rule: names loads and arms only. Part 1 shares its loads with the figures, so that both speak of the
same runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from benchmark.simulation.plans import Arm, Load
from benchmark.simulation.workloads import COURSES
from benchmark.study.figures import FCFS, FIRST, LAPS, LAS, PAPER, SHAPES, SJF, SRPT, Size

SJF_PREEMPTIVE, ESRPT = Arm("sjf-preemptive"), Arm("e-srpt")
POLICIES = (FCFS, LAS, SJF, SJF_PREEMPTIVE, ESRPT, PAPER, LAPS, SRPT)
RHOS = (0.5, 0.8, 0.9, 0.95)
WORKLOADS = (*SHAPES, "demo")
BATCHES = (1, 2, 4, 8, 16)
MEMORIES = (None, 1.0, 0.5, 0.3)
LEVELS = (1, 2, 3, 4, 6, 8)
RULES = {
    "window 3, delta .08": (3, 0.08),
    "window 4, delta .08": (4, 0.08),
    "window 8, delta .08": (8, 0.08),
    "window 8, delta .02": (8, 0.02),
    "window 12, delta .05": (12, 0.05),
}

Wanted = Iterator[tuple[Load, Sequence[Arm]]]


def tasks(size: Size) -> dict[Load, list[Arm]]:
    """Everything that the study needs beside the figures, without doubles."""
    seeds = few(size)
    parts = (policies(size), bursts(size), levels(seeds), batches(seeds), memories(seeds))
    wanted: dict[Load, list[Arm]] = {}
    for part in (*parts, courses(seeds), knobs(seeds)):
        merge(wanted, part)
    return wanted


def few(size: Size) -> int:
    """Seeds of everything but part 1's main loads."""
    return -(-size.seeds // 2)


def merge(wanted: dict[Load, list[Arm]], more: Iterable[tuple[Load, Sequence[Arm]]]) -> None:
    """Add what is not in `wanted` yet."""
    for load, arms in more:
        known = wanted.setdefault(load, [])
        known.extend(arm for arm in arms if arm not in known)


def poisson(size: Size, workload: str, rho: float) -> list[Load]:
    """The seeds of part 1: those of the figures, half of them at other loads."""
    counts = {**size.counts, "demo": size.counts["chat"]}
    seeds = size.seeds if rho in (0.8, 0.9) and workload != "demo" else few(size)
    return replace(size, seeds=seeds, counts=counts).poisson(workload, rho)


def policies(size: Size) -> Wanted:
    """Part 1: every policy, workload and load."""
    for workload in WORKLOADS:
        for rho in RHOS:
            yield from ((load, POLICIES) for load in poisson(size, workload, rho))


def bursts(size: Size) -> Wanted:
    """Part 2: latency by number of requests."""
    for shape in SHAPES:
        for count in size.bursts:
            arms = (FCFS, LAS, SJF, PAPER, LAPS, SRPT)
            yield from ((load, arms) for load in size.burst(shape, count))


def queues(count: int) -> Arm:
    """The paper's algorithm with so many queues."""
    return replace(PAPER, flags=(("laps_levels", count),))


def level_loads(name: str, seeds: int) -> list[Load]:
    """Part 2: chat in small and large bursts, and as a stream."""
    loads = {
        "burst of 10": [Load("chat", seed, 10, None) for seed in range(6 * seeds)],
        "burst of 30": [Load("chat", seed, 30, None) for seed in range(2 * seeds)],
        "Poisson 0.8": [Load("chat", seed, 200, 0.8) for seed in range(seeds)],
        "Poisson 0.9": [Load("chat", seed, 200, 0.9) for seed in range(seeds)],
    }
    return loads[name]


LEVEL_LOADS = ("burst of 10", "burst of 30", "Poisson 0.8", "Poisson 0.9")


def levels(seeds: int) -> Wanted:
    """Parts 2 and 3: how many queues, beside a rank without queues."""
    for name in LEVEL_LOADS:
        for load in level_loads(name, seeds):
            yield load, [*map(queues, LEVELS), LAPS, SRPT]


def batch_loads(batch: int, rho: float | None, seeds: int) -> list[Load]:
    """Part 3: chat with more rows; at rho, or with thirty requests a row at once."""
    count = 150 + 30 * batch if rho else 30 * batch
    depth = 1 if batch == 1 else 2
    return [Load("chat", seed, count, rho, batch, depth) for seed in range(seeds)]


BATCH_ARMS = (FCFS, LAS, SJF, LAPS, SRPT)


def batches(seeds: int) -> Wanted:
    """Part 3: more than one row."""
    for batch in BATCHES:
        for rho in (0.9, None):
            yield from ((load, BATCH_ARMS) for load in batch_loads(batch, rho, seeds))


MEMORY_ARMS = {
    "fcfs": FCFS,
    "sjf": SJF,
    "laps-sd": LAPS,
    "with volume": replace(LAPS, flags=(("laps_volume", 1.0),)),
    "with peak test": replace(LAPS, flags=(("laps_peak", True),)),
    "with both": replace(LAPS, flags=(("laps_volume", 1.0), ("laps_peak", True))),
    "srpt, real switches": SRPT,
}


def memory_loads(memory: float | None, seeds: int) -> list[Load]:
    """Part 3: eight rows, and less and less memory."""
    return [Load("chat", seed, 300, 0.9, batch=8, depth=2, memory=memory) for seed in range(seeds)]


def memories(seeds: int) -> Wanted:
    """Part 3: switches that cost something."""
    for memory in MEMORIES:
        yield from ((load, list(MEMORY_ARMS.values())) for load in memory_loads(memory, seeds))


def rule(window: int, deviation: float) -> Arm:
    """The paper's algorithm with other thresholds of stability."""
    return replace(PAPER, flags=(("laps_window", window), ("laps_deviation", deviation)))


def queued(*flags: tuple[str, Any]) -> Arm:
    """LAPS-SD's estimates in the paper's queues."""
    queues = (("laps_rank", "queues"), ("laps_join", "first"), ("laps_patience", 1e9))
    return replace(LAPS, first=FIRST, flags=(*queues, *flags))


PERCEPTIONS = {
    "our lengths, window 4, delta .08": queued(("laps_perception", "window")),
    "our lengths, soft, width .2": queued(),
    "our lengths, soft, width .3": queued(("laps_width", 0.3)),
    "LAPS-SD, no queues": LAPS,
}
"""Soft perception: by posterior width and alarm, with a way back; beside the paper's rule."""


def course_arms() -> dict[str, Arm]:
    """The paper's rules, then ours."""
    return {**{name: rule(*thresholds) for name, thresholds in RULES.items()}, **PERCEPTIONS}


def course_loads(course: str, seeds: int) -> list[Load]:
    """Part 3: acceptance that does not stay as it was."""
    return [Load("chat", seed, 200, 0.8, course=course) for seed in range(seeds)]


def courses(seeds: int) -> Wanted:
    """Part 3: robustness of stability detection."""
    arms = [*course_arms().values(), SRPT]
    for course in COURSES:
        yield from ((load, arms) for load in course_loads(course, seeds))


KNOBS = {
    "M 1.5": (("laps_ratio", 1.5),),
    "M 2 (default)": (),
    "M 4": (("laps_ratio", 4.0),),
    "M 8": (("laps_ratio", 8.0),),
}
FIRSTS = {f"Sup_1 {share:.0%} of mean service": share for share in (0.05, FIRST, 0.3, 0.6)}


def knob_arms() -> dict[str, Arm]:
    """Part 4: the paper's open parameters, one at a time."""
    ratios = {name: replace(PAPER, flags=flags) for name, flags in KNOBS.items()}
    firsts = {name: replace(PAPER, first=first) for name, first in FIRSTS.items()}
    return {**ratios, **firsts, **{name: rule(*thresholds) for name, thresholds in RULES.items()}}


def knob_loads(shape: str, seeds: int) -> list[Load]:
    """Part 4: two shapes whose answers are short and long in rounds."""
    return [Load(shape, seed, 200, 0.8) for seed in range(seeds)]


def knobs(seeds: int) -> Wanted:
    """Part 4: several M, Sup_1, gamma and delta."""
    for shape in ("chat", "code"):
        yield from ((load, [*knob_arms().values(), LAS, SRPT]) for load in knob_loads(shape, seeds))
