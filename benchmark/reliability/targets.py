"""The figures of the page, their targets, and where they come from.

Rule: names figures of the result files and the bounds that they should keep; measures nothing.
"""

from __future__ import annotations

from benchmark.targets import Target

FILES = {
    "faults": "faults.json",
    "simulation": "simulation.json",
    "live": "starvation.json",
    "ageing": "ageing.json",
    "overload": "overload.json",
    "isolation": "isolation.json",
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
    "ageing": ("ageing.requests",),
    "overload": ("overload.peak", "overload.refused"),
    "isolation": ("isolation.prompts",),
    "restarts": ("restarts.kills", "restarts.restarts"),
    "soak": ("soak.minutes", "soak.requests", "soak.faults"),
}
"""Figures that say how much was run."""
TARGETS = (
    Target("faults.identical", ">=", 1, "streams give the same tokens although shards die"),
    Target("faults.gap_seconds", "<=", 5, "pause after a death, without loading"),
    Target("faults.hang_seconds", "<=", 1, "a hang is found after the step timeout by"),
    Target("faults.ready_false_seconds", "<=", 2, "`/health/ready` is 503 after"),
    Target("faults.router_seconds", "<=", 3, "a new router serves after"),
    Target("simulation.violations", "<=", 0, "simulated requests lost, or ended twice or wrongly"),
    Target("live.starved", "<=", 0, "requests that starve in a flood"),
    Target("ageing.mean_cost", "<=", 0.02, "rise of mean latency by the bound on waiting"),
    Target("overload.goodput", ">=", 0.9, "goodput under five times the load"),
    Target("overload.refused_p50_ms", "<=", 20, "latency of 429, median, in ms"),
    Target("overload.refused_p99_ms", "<=", 20, "latency of 429, 99th percentile, in ms"),
    Target("overload.health_p99_ms", "<=", 10, "latency of health checks meanwhile, p99, in ms"),
    Target("overload.half_open_p99_ratio", "<=", 1.2, "latency next to half-open connections"),
    Target("overload.never_read_mib", "<=", 100, "memory that clients cost which never read, MiB"),
    Target("isolation.long_text_ms", "<=", 25, "health checks next to texts of 1.9 MB, p99, ms"),
    Target("isolation.hostile_ms", "<=", 100, "health checks next to hostile requests, p99, ms"),
    Target("isolation.hostile_mib", "<=", 10, "memory that hostile requests cost, MiB"),
    Target("isolation.other_key_ttft", "<=", 0.1, "first token of another key's cached prompt"),
    Target("isolation.flooded_ttft", "<=", 2, "first token of a tenant next to a flood"),
    Target("restarts.survivors", "<=", 0, "processes left 1 s after the launcher was killed"),
    Target("restarts.refused", "<=", 0, "starts that fail on a polled port"),
    Target("soak.unaccounted", "<=", 0, "requests without an end"),
    Target("soak.differing", "<=", 0, "answers that differ from the first"),
    Target("soak.held", "<=", 0, "permits and rows held at the end"),
    Target("soak.memory_mib_per_hour", "<=", 1, "growth of memory, MiB per hour"),
    Target("soak.descriptors", "<=", 2, "growth of open descriptors"),
)
