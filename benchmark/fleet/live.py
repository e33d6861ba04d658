"""Least estimated wait and round robin over two real replicas, under Ray Serve on this machine.

The same requests, one in twelve with a long answer, go to the same replicas by either policy, in
turns, at 0.85 of what they can serve. Each replica has one row of the echo engine, so two cores
suffice. Figures:

- `fleet.live_over_round_robin`: mean latency of all rounds relative to round robin's;
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
from statistics import fmean, quantiles

import aiohttp

from benchmark.fleet.ray_cluster import serving

ROUTER = "benchmark.fleet.either_router:EitherRouter"
POLICIES = ("least wait", "round robin")
TURN = "x-turn"
"""The header of a request that goes to the replica whose turn it is: its number, from 0."""
SHORT, LONG, LONG_SHARE = 8, 240, 1 / 12
"""Tokens of the answers."""
FLAGS = "--echo-seconds 0.025 --max-batch-size 1"
Arrival = tuple[float, int]
"""Seconds after the start, and the length of the answer."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `fleet-live`."""
    parser.add_argument("--requests", type=int, default=190, help="of one round and policy")
    parser.add_argument("--rate", type=float, default=7.0, help="requests a second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scheduler", default="laps-sd", help="of the replicas")
    parser.add_argument("--json", type=Path, help="file for the figures and all rounds")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write the figures. Return the exit status."""
    with serving(router=ROUTER, extra=f"{FLAGS} --scheduler {args.scheduler}") as url:
        asyncio.run(play(url, trace(20, args.rate, seed=0), turns=False))
        rounds = [
            {
                policy: asyncio.run(
                    play(url, trace(args.requests, args.rate, seed), turns=policy == "round robin")
                )
                for policy in POLICIES
            }
            for seed in range(1, args.rounds + 1)
        ]
    values = figures(rounds)
    for name, value in values.items():
        print(f"{name:40} {value:8.4f}")
    if args.json:
        result = {"figures": values, "scheduler": args.scheduler, "rounds": rounds}
        args.json.write_text(json.dumps(result) + "\n")
    return 0


def trace(count: int, rate: float, seed: int) -> list[Arrival]:
    """Return Poisson arrivals, few of them with long answers."""
    random, now, arrivals = Random(seed), 0.0, []  # noqa: S311 - no secret is drawn
    for _ in range(count):
        now += random.expovariate(rate)
        arrivals.append((now, LONG if random.random() < LONG_SHARE else SHORT))
    return arrivals


async def play(url: str, arrivals: Sequence[Arrival], *, turns: bool) -> list[float]:
    """Send the requests at their times; return their latencies in seconds.

    `turns`: the replicas get them in turns.
    """
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector) as session:
        start = time.monotonic()
        return await asyncio.gather(
            *(
                _send(session, start + due, tokens, seed, turns=turns)
                for seed, (due, tokens) in enumerate(arrivals)
            )
        )


def figures(rounds: Sequence[dict[str, list[float]]]) -> dict[str, float]:
    """The figures of the head of this file."""
    pooled = {policy: [value for one in rounds for value in one[policy]] for policy in POLICIES}

    def ratio(of: Callable[[list[float]], float]) -> float:
        return of(pooled["least wait"]) / of(pooled["round robin"])

    return {
        "fleet.live_over_round_robin": ratio(fmean),
        "fleet.live_p99_over_round_robin": ratio(lambda values: quantiles(values, n=100)[98]),
    }


async def _send(
    session: aiohttp.ClientSession, due: float, tokens: int, seed: int, *, turns: bool
) -> float:
    await asyncio.sleep(due - time.monotonic())
    body = {
        "prompt": f"Say it again and again {seed}",
        "max_tokens": tokens,
        "ignore_eos": True,
        "seed": seed,
        "model": "tgi",
    }
    headers = {TURN: str(seed)} if turns else {}
    async with session.post("/v1/completions", json=body, headers=headers) as response:
        answer = await response.json()
        if response.status != 200:
            raise RuntimeError(answer)
    return round(time.monotonic() - due, 4)
