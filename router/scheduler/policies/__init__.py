"""The scheduling policies by name: the only list of them.

The flag's choices, its help and `router.scheduler.build` follow from `POLICIES`. A new policy is a
file that implements `Policy` with a builder next to it, and a line here.
"""

from __future__ import annotations

from typing import NamedTuple

from router.scheduler.policies import baselines, laps, laps_paper
from router.scheduler.policies.builders import Builder


class NamedPolicy(NamedTuple):
    """How one policy is described in `--help`, and how it is built."""

    summary: str
    build: Builder


POLICIES: dict[str, NamedPolicy] = {
    "laps-sd": NamedPolicy("LAPS-SD extended to batches", laps.build),
    "laps-sd-paper": NamedPolicy("LAPS-SD as published", laps_paper.build),
    "fcfs": NamedPolicy("first come, first served", baselines.build_fcfs),
    "las": NamedPolicy("least attained service", baselines.build_las),
    "sjf": NamedPolicy("shortest predicted answer, to its end", baselines.build_sjf),
    "sjf-preemptive": NamedPolicy(
        "the same with preemption by shorter ones", baselines.build_preemptive_sjf
    ),
    "e-srpt": NamedPolicy("shortest estimated remaining time", baselines.build_esrpt),
}
"""By the value of `--scheduler`; the first is the default."""
