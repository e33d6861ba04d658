"""Part 5: the same requests in the simulator and on a real server, as recorded by `benchmark live`.

The file has `figures` and `requests`, one object per request and policy: `policy`, `arrival`,
`length`, `live` and `simulated`, the latter two latencies in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

RECORDED_RUN = Path(__file__).resolve().parent.parent / "results" / "live.json"
NOT_RECORDED = (
    "Not recorded here. `python -m benchmark live --json benchmark/results/live.json` runs a real"
    " server and writes what this section needs; then `python -m benchmark study` again."
)


def table(path: Path = RECORDED_RUN) -> str:
    """Return mean latencies by policy, or how to record them. Raises ValueError if invalid."""
    if not path.exists():
        return NOT_RECORDED
    report: Mapping[str, Any] = json.loads(path.read_text())
    try:
        policies = sorted({row["policy"] for row in report["requests"]})
        lines = [_line(name, report["requests"]) for name in policies]
        figures = [f"`{name}` {value:.3f}" for name, value in report["figures"].items()]
    except (KeyError, TypeError) as fault:
        raise ValueError(f"{path} is not what `benchmark live` writes: {fault!r}") from fault
    heads = "| policy | requests | live mean s | simulated mean s | simulated over live |"
    return "\n".join(
        [heads, "| --- | --- | --- | --- | --- |", *lines, "", ", ".join(figures) + "."]
    )


def _line(policy: str, rows: list[Mapping[str, Any]]) -> str:
    selected = [row for row in rows if row["policy"] == policy]
    live, simulated = (fmean(row[name] for row in selected) for name in ("live", "simulated"))
    return f"| {policy} | {len(selected)} | {live:.3f} | {simulated:.3f} | {simulated / live:.3f} |"
