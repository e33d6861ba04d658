"""The figures of the page, their targets, and where they come from.

Rule: names figures of the result files and the bounds that they should keep; measures nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Target:
    """A figure, and the bound that it should keep."""

    figure: str
    """`NAME.rest`, which `python -m benchmark` writes to `results/NAME.json` or as in `FILES`."""
    text: str
    relation: Literal["<=", ">="]
    bound: float

    def is_met(self, value: float) -> bool:
        """Whether `value` keeps the bound."""
        return value <= self.bound if self.relation == "<=" else value >= self.bound


FILES = {
    "faults": "faults.json",
    "simulation": "simulation.json",
    "live": "starvation.json",
    "overload": "overload.json",
    "restarts": "restarts.json",
    "soak": "soak.json",
}
"""The result file of each figure's first word."""
COMMANDS = {"live": "starvation", "simulation": "simulate"}
"""Subcommands that have another name than the first word of their figures."""
COUNTS = {
    "faults": ("faults.streams", "faults.faults"),
    "simulation": ("simulation.requests", "simulation.failures", "simulation.hours"),
    "live": ("live.short", "live.long"),
    "overload": ("overload.peak", "overload.refused"),
    "restarts": ("restarts.kills", "restarts.restarts"),
    "soak": ("soak.minutes", "soak.requests", "soak.faults"),
}
"""Figures that say how much was run."""
TARGETS = (
    Target("faults.identical", "streams give the same tokens although shards die", ">=", 1),
    Target("faults.gap_seconds", "pause after a death, without loading", "<=", 5),
    Target("faults.hang_seconds", "a hang is found after the step timeout by", "<=", 1),
    Target("faults.ready_false_seconds", "`/health/ready` is 503 after", "<=", 2),
    Target("faults.router_seconds", "a new router serves after", "<=", 3),
    Target("simulation.violations", "simulated requests lost, or ended twice or wrongly", "<=", 0),
    Target("live.starved", "requests that starve in a flood", "<=", 0),
    Target("overload.goodput", "goodput under five times the load", ">=", 0.9),
    Target("overload.refused_p50_ms", "latency of 429, median, in ms", "<=", 20),
    Target("overload.refused_p99_ms", "latency of 429, 99th percentile, in ms", "<=", 20),
    Target("overload.half_open_p99_ratio", "latency next to half-open connections", "<=", 1.2),
    Target("overload.never_read_mib", "memory that clients cost which never read, MiB", "<=", 100),
    Target("restarts.survivors", "processes left 1 s after the launcher was killed", "<=", 0),
    Target("restarts.refused", "starts that fail on a polled port", "<=", 0),
    Target("soak.unaccounted", "requests without an end", "<=", 0),
    Target("soak.differing", "answers that differ from the first", "<=", 0),
    Target("soak.held", "permits and rows held at the end", "<=", 0),
    Target("soak.memory_mib_per_hour", "growth of memory, MiB per hour", "<=", 1),
    Target("soak.descriptors", "growth of open descriptors", "<=", 2),
)
