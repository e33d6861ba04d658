"""Part 5: the same trace through the simulator and a real server, as `benchmark live` wrote it.

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
    """Mean latencies by policy, or how to get them. Raises ValueError for a file of other kind."""
    if not path.exists():
        return NOT_RECORDED
    report: Mapping[str, Any] = json.loads(path.read_text())
    try:
        policies = sorted({row["policy"] for row in report["requests"]})
        lines = [_line(name, report["requests"]) for name in policies]
        named = [f"`{name}` {value:.3f}" for name, value in report["figures"].items()]
    except (KeyError, TypeError) as fault:
        raise ValueError(f"{path} is not what `benchmark live` writes: {fault!r}") from fault
    heads = "| policy | requests | live mean s | simulated mean s | simulated over live |"
    return "\n".join([heads, "| --- | --- | --- | --- | --- |", *lines, "", ", ".join(named) + "."])


def _line(policy: str, rows: list[Mapping[str, Any]]) -> str:
    mine = [row for row in rows if row["policy"] == policy]
    live, simulated = (fmean(row[name] for row in mine) for name in ("live", "simulated"))
    return f"| {policy} | {len(mine)} | {live:.3f} | {simulated:.3f} | {simulated / live:.3f} |"
