"""Which replica should get a request? Replicas with the shipped scheduler, in virtual time.

Requests share system prompts of 512 tokens, and a quarter of them has long answers. Replicas have
four rows and the assumed Step costs of a 7B model; they report ten times a second to the gateways.
Every policy gets the same requests at the same times, over several seeds. Figures, for N replicas:

- `fleet.N.POLICY.mean`, `.p99`: latency relative to round robin's;
- `fleet.N.POLICY.prefill`: computed share of the prompt tokens; the rest was cached;
- `fleet.N.gateways8.POLICY.mean`: as `mean`, with eight gateways that know nothing of each other.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean

from benchmark.fleet.policies import POLICIES
from benchmark.fleet.simulation import Fleet, FleetResult
from benchmark.fleet.simulation import run as simulate

QUICK_SIZES, SIZES = (8, 64), (8, 64, 256)
SHARED_SIZE, GATEWAYS = 64, 8
"""Number of replicas and gateways where several gateways are simulated."""
SEEDED_REPLICAS = 32
"""There are so many seeds that about this many replicas are simulated for each policy."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fleet`."""
    parser.add_argument("--quick", action="store_true", help="no more than 64 replicas")
    parser.add_argument("--json", type=Path, help="file for the figures and all results")
    parser.add_argument("--processes", type=int, help="default: one per core")


def run(args: argparse.Namespace) -> int:
    """Simulate, print and write the figures. Return the exit status."""
    with ProcessPoolExecutor(args.processes) as pool:
        results = list(pool.map(simulate, tasks(QUICK_SIZES if args.quick else SIZES)))
    values = figures(results)
    for name, value in values.items():
        print(f"{name:40} {value:8.4f}")
    if args.json:
        rows = [{**asdict(result), **asdict(result.fleet)} for result in results]
        args.json.write_text(json.dumps({"figures": values, "rows": rows}, indent=1) + "\n")
    return 0


def tasks(sizes: Sequence[int]) -> list[Fleet]:
    """Return the fleets to simulate, the largest first."""
    fleets = [
        Fleet(size, policy, seed=seed)
        for size in sorted(sizes, reverse=True)
        for policy in POLICIES
        for seed in range(max(1, SEEDED_REPLICAS // size))
    ]
    shared = [replace(f, gateways=GATEWAYS) for f in fleets if f.replicas == SHARED_SIZE]
    return [*fleets, *shared]


def figures(results: Iterable[FleetResult]) -> dict[str, float]:
    """The figures of the head of this file."""
    groups: dict[tuple[int, int], dict[str, list[FleetResult]]] = {}
    for result in results:
        fleet = result.fleet
        group = groups.setdefault((fleet.replicas, fleet.gateways), {})
        group.setdefault(fleet.policy, []).append(result)
    return {
        f"fleet.{size}.{'' if gateways == 1 else f'gateways{gateways}.'}{name}": value
        for (size, gateways), group in sorted(groups.items())
        for name, value in _compare(group)
    }


def _compare(group: dict[str, list[FleetResult]]) -> Iterable[tuple[str, float]]:
    base = group["round robin"]
    for policy, results in group.items():
        name = policy.replace(" ", "_")
        yield f"{name}.prefill", fmean(r.prefill for r in results)
        if policy != "round robin":
            yield f"{name}.mean", _ratio([r.mean for r in results], [r.mean for r in base])
            yield f"{name}.p99", _ratio([r.p99 for r in results], [r.p99 for r in base])


def _ratio(values: Sequence[float], base: Sequence[float]) -> float:
    return fmean(values) / fmean(base)
