"""Shards that are killed or stopped in the middle of streams: what callers notice.

Every run serves the same streams, of all kinds, on a fresh server of the demo pair with few rows
and pages, so that requests wait, share prefixes and are preempted. The first run is undisturbed; in
the others a rank, chosen at random, gets SIGKILL or SIGSTOP at random moments. Figures:

- `faults.identical`: 1 if every answer of every run has the tokens, texts and finish reasons of the
  undisturbed run, else 0. `faults.streams` counts the answers, `faults.differing` those that
  differ, and `faults.faults` the signals.
- `faults.gap_seconds`: longest time from a SIGKILL to the next token, less the time that the ranks
  took to load.
- `faults.hang_seconds`: longest time from a SIGSTOP until the shards were given up, less the step
  timeout; 0 without one.
- `faults.ready_false_seconds`: longest time from a signal until `/health/ready` was 503.
- `faults.router_seconds`: time from the SIGKILL of an idle router until a new one, connected to the
  same ranks, is healthy.

A server starts its shards again at most five times in five minutes, so each run has at most that
many faults. `--quick` makes one disturbed run with one shard and one with two.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from benchmark.faults.streams import Answers, Progress, is_same_answer, streaming
from benchmark.faults.workload import bodies
from benchmark.server.server import ServerFailed
from benchmark.server.watched_server import WatchedServer, running

STEP_TIMEOUT_SECONDS = 5.0
"""--step-timeout of the server."""
FAULTS_PER_RUN = 4
FLAGS = (
    *("--max-batch-size", "12", "--max-batch-total-tokens", "4096", "--max-total-tokens", "1024"),
    *("--max-swap-tokens", "2048", "--step-timeout", str(STEP_TIMEOUT_SECONDS)),
)
RUN_TIMEOUT_SECONDS = 600.0
"""Time limit of one run."""


@dataclass(frozen=True, slots=True)
class ServerFault:
    """What is done to a server."""

    tokens: int
    """When: after so many tokens of all streams together."""
    signal: signal.Signals
    rank: float
    """Which rank, as a fraction of their number below 1."""


@dataclass
class DisturbedRun:
    """What a disturbed run has shown, in seconds."""

    answers: Answers = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    hangs: list[float] = field(default_factory=list)
    ready_false: list[float] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `faults`."""
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="one disturbed run for each group")
    parser.add_argument("--streams", type=int, default=100, help="streams per run")
    parser.add_argument("--runs", type=int, default=5, help="disturbed runs for each group")
    parser.add_argument("--shards", type=int, nargs="*", default=[1, 2], help="sizes of groups")
    parser.add_argument("--seed", type=int, default=1, help="seed of requests and faults")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write the figures. Return 1 if an answer differs, else 0."""
    results = asyncio.run(_measure(args, bodies(args.streams, args.seed)))
    for name, value in results["figures"].items():
        print(f"{name:24} {value:.3f}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if results["figures"]["faults.identical"] else 1


async def _measure(args: argparse.Namespace, requests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    random, observed = Random(args.seed), list[DisturbedRun]()  # noqa: S311 - no secret is drawn
    undisturbed = (await _serve(args.shards[0], requests, [])).answers
    tokens = sum(map(len, undisturbed))
    for shards in args.shards:
        for number in range(1 if args.quick else args.runs):
            print(f"{shards} shards, run {number + 1} ...", file=sys.stderr, flush=True)
            observed.append(await _serve(shards, requests, plan_faults(random, tokens)))
    router = {"faults.router_seconds": await _router_seconds(max(args.shards))}
    return {"figures": figures(undisturbed, observed) | router}


def plan_faults(random: Random, tokens: int) -> list[ServerFault]:
    """The faults of a run of `tokens` tokens: SIGKILL, and SIGSTOP as the last."""
    moments = sorted(random.sample(range(1, tokens * 9 // 10), FAULTS_PER_RUN))
    kinds = [signal.SIGKILL] * (FAULTS_PER_RUN - 1) + [signal.SIGSTOP]
    return [ServerFault(*each, random.random()) for each in zip(moments, kinds, strict=True)]


async def _serve(
    shards: int, requests: Sequence[dict[str, Any]], faults: Sequence[ServerFault]
) -> DisturbedRun:
    """Serve `requests` on a fresh server of `shards` ranks. Raises ServerFailed."""
    observed, progress = DisturbedRun(), Progress()
    try:
        async with (
            asyncio.timeout(RUN_TIMEOUT_SECONDS),
            running([*FLAGS, "--num-shard", str(shards)]) as server,
            streaming(server.url, requests, progress) as answers,
        ):
            for fault in faults:
                await progress.reach(fault.tokens)
                await _disturb(server, progress, fault, observed)
            observed.answers = await answers
    except TimeoutError:
        raise ServerFailed(f"the streams did not end in {RUN_TIMEOUT_SECONDS} s") from None
    return observed


async def _disturb(
    server: WatchedServer, progress: Progress, fault: ServerFault, observed: DisturbedRun
) -> None:
    """Send the signal to a rank, and wait until tokens arrive again."""
    ranks = server.children("shard")
    os.kill(ranks[int(fault.rank * len(ranks))], fault.signal)
    moment = time.monotonic()
    await _until(server.url, "stalled", "restarting")
    observed.ready_false.append(time.monotonic() - moment)
    await _until(server.url, "restarting")
    given_up = time.monotonic() - moment
    loaded: float = (await server.event("restarted"))["seconds"]
    await progress.reach(progress.tokens + 1)
    if fault.signal is signal.SIGSTOP:
        observed.hangs.append(given_up - STEP_TIMEOUT_SECONDS)
    else:
        observed.gaps.append(progress.arrivals[-1] - moment - loaded)


async def _until(url: str, *reasons: str) -> None:
    """Wait until `/health/ready` is 503 for one of `reasons`."""
    async with aiohttp.ClientSession(url) as session:
        reason = None
        while reason not in reasons:
            await asyncio.sleep(0.02)
            async with session.get("/health/ready") as response:
                reason = None if response.status == 200 else (await response.json())["reason"]


async def _router_seconds(shards: int) -> float:
    """Kill the router of a server. Raises ServerFailed if the ranks do not stay."""
    async with (
        running([*FLAGS, "--num-shard", str(shards)]) as server,
        aiohttp.ClientSession(server.url) as session,
    ):
        ranks = server.children("shard")
        os.kill(server.children("router")[0], signal.SIGKILL)
        moment = time.monotonic()
        await server.event("router_restarted")
        async with session.get("/health") as response:
            healthy = response.status == 200
        if not healthy or server.children("shard") != ranks:
            raise ServerFailed("the new router does not serve with the same ranks")
        return time.monotonic() - moment


def figures(undisturbed: Answers, observed: Sequence[DisturbedRun]) -> dict[str, float]:
    """The figures of the head of this file."""
    same = [
        is_same_answer(*pair)
        for each in observed
        for pair in zip(undisturbed, each.answers, strict=True)
    ]
    ended = all(stream and stream[-1].get("details") for stream in undisturbed)
    gaps, hangs, ready_false = (
        [value for each in observed for value in getattr(each, name)]
        for name in ("gaps", "hangs", "ready_false")
    )
    return {
        "faults.identical": int(ended and all(same)),
        "faults.streams": len(same),
        "faults.differing": same.count(False),
        "faults.faults": len(gaps) + len(hangs),
        "faults.gap_seconds": max(gaps, default=0.0),
        "faults.hang_seconds": max(hangs, default=0.0),
        "faults.ready_false_seconds": max(ready_false, default=0.0),
    }
