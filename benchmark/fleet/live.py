"""Least estimated wait and round robin over two real replicas, under Ray Serve on this machine.

The same requests, one in eight with a long answer, go to the same replicas by either policy, in
turns; the replicas run the echo engine, so two cores suffice. Figures:

- `fleet.live_over_round_robin`: mean latency relative to round robin's, the median of the rounds;
- `fleet.live_p99_over_round_robin`: the same for the 99th percentile.

Runs in the environment of `make test-ray`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from statistics import fmean, median, quantiles

import aiohttp

from benchmark.fleet.ray_cluster import serving

ROUTER = "benchmark.fleet.either_router:EitherRouter"
POLICIES: dict[str, dict[str, str]] = {"least wait": {}, "round robin": {"x-policy": "round-robin"}}
SHORT, LONG, LONG_SHARE = 8, 240, 1 / 8
"""Tokens of the answers."""
Arrival = tuple[float, int]
"""Seconds after the start, and the length of the answer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fleet-live`."""
    parser.add_argument("--requests", type=int, default=100, help="of one round and policy")
    parser.add_argument("--rate", type=float, default=8.0, help="requests a second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scheduler", default="fcfs", help="of the replicas")
    parser.add_argument("--json", type=Path, help="file for the figures and all rounds")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write the figures. Return the exit status."""
    with serving(router=ROUTER, extra=f"--scheduler {args.scheduler}") as url:
        asyncio.run(play(url, trace(20, args.rate, seed=0), {}))
        rounds = [
            {
                policy: asyncio.run(play(url, trace(args.requests, args.rate, seed), headers))
                for policy, headers in POLICIES.items()
            }
            for seed in range(1, args.rounds + 1)
        ]
    values = figures(rounds)
    for name, value in values.items():
        print(f"{name:40} {value:8.4f}")
    if args.json:
        result = {"figures": values, "scheduler": args.scheduler, "rounds": rounds}
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


def trace(count: int, rate: float, seed: int) -> list[Arrival]:
    """Return Poisson arrivals, few of them with long answers."""
    random, now, arrivals = Random(seed), 0.0, []  # noqa: S311 - no secret is drawn
    for _ in range(count):
        now += random.expovariate(rate)
        arrivals.append((now, LONG if random.random() < LONG_SHARE else SHORT))
    return arrivals


async def play(url: str, arrivals: Sequence[Arrival], headers: dict[str, str]) -> list[float]:
    """Send the requests at their times; return their latencies in seconds."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, headers=headers, connector=connector) as session:
        start = time.monotonic()
        return await asyncio.gather(
            *(
                _send(session, start + due, tokens, seed)
                for seed, (due, tokens) in enumerate(arrivals)
            )
        )


def figures(rounds: Sequence[dict[str, list[float]]]) -> dict[str, float]:
    """The figures of the head of this file."""

    def ratio(of: Callable[[list[float]], float]) -> float:
        return median(of(r["least wait"]) / of(r["round robin"]) for r in rounds)

    return {
        "fleet.live_over_round_robin": ratio(fmean),
        "fleet.live_p99_over_round_robin": ratio(lambda values: quantiles(values, n=100)[98]),
    }


async def _send(session: aiohttp.ClientSession, due: float, tokens: int, seed: int) -> float:
    await asyncio.sleep(due - time.monotonic())
    body = {
        "prompt": f"Say it again and again {seed}",
        "max_tokens": tokens,
        "ignore_eos": True,
        "seed": seed,
        "model": "tgi",
    }
    async with session.post("/v1/completions", json=body) as response:
        answer = await response.json()
        if response.status != 200:
            raise RuntimeError(answer)
    return time.monotonic() - due
