"""Five times the load that a server can serve, and clients that never read or never finish.

The server runs the echo engine with 50 ms per Step, so that its capacity does not depend on a
model; clients run in another process, this one. First as many clients as there are permits send
requests in turns: the peak. Then requests arrive at random, five times as fast. On a second server,
whose Steps take no time, the latency of some clients is measured alone and next to connections that
are half open, and then memory with clients that never read. Figures:

- `overload.goodput`: answers per second under five times the load, as a fraction of the peak,
  `overload.peak` per second.
- `overload.refused`: requests answered with 429; `overload.refused_p50_ms` and `_p99_ms`: latency.
- `overload.failed`: requests with another end than 200 or 429.
- `overload.health_p99_ms`: latency of `/health` and `/health/ready` meanwhile.
- `overload.half_open_p99_ratio`: 99th percentile of latency next to half-open connections, relative
  to without; `overload.half_open_closed_seconds`: until the server has closed them all.
- `overload.never_read_mib`: memory that clients which never read cost the router;
  `overload.never_read_cut_seconds`: until their connections are closed.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import aiohttp

from benchmark.figures import publish
from benchmark.load.attackers import (
    half_open,
    never_reading,
    seconds_until_closed,
    seconds_until_connections,
)
from benchmark.load.process_usage import usage
from benchmark.load.requests import (
    TimedResponse,
    after,
    per_second,
    percentile,
    post,
    probe_health,
    send_at_random,
    send_in_turns,
    session,
)
from benchmark.server.watched_server import WatchedServer, running

PERMITS, LOAD = 32, 5.0
LIMITED = (
    *("--echo", "--echo-seconds", "0.05", "--max-batch-size", "8"),
    *("--max-concurrent-requests", str(PERMITS)),
)
FAST = (
    *("--echo", "--max-connections", "4096", "--max-total-tokens", "8192"),
    *("--max-concurrent-requests", "256"),
)
WARM_UP_SECONDS = 2.0
NORMAL_CLIENTS = 4
STREAM_TOKENS = 2000
BODY = {"inputs": "some words", "parameters": {"max_new_tokens": 24, "ignore_eos_token": True}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `overload`."""
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="shorter, with fewer clients")
    parser.add_argument("--seed", type=int, default=1, help="seed of the arrivals")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write the figures. Return 1 if a request failed, else 0."""
    seconds, half, silent = (8.0, 100, 20) if args.quick else (30.0, 1000, 200)
    random = Random(args.seed)  # noqa: S311 - no secret is drawn
    figures = asyncio.run(_goodput(seconds, random)) | asyncio.run(_attacked(half, silent, seconds))
    publish(figures, args.json)
    return 1 if figures["overload.failed"] else 0


async def _goodput(seconds: float, random: Random) -> dict[str, float]:
    async with running(LIMITED) as server, session(server.url) as opened:
        send = lambda: post(opened, BODY)  # noqa: E731
        start, whole = time.monotonic() + WARM_UP_SECONDS, WARM_UP_SECONDS + seconds
        peak = per_second(await send_in_turns(send, PERMITS, after(whole)), start, start + seconds)
        start, probing = time.monotonic() + WARM_UP_SECONDS, after(whole)
        probes = asyncio.ensure_future(probe_health(opened, probing))
        outcomes = await send_at_random(send, LOAD * peak, whole, random)
        health = {"overload.health_p99_ms": 1000 * percentile(await probes, 99)}
        return overload_figures(outcomes, peak, start, start + seconds) | health


def overload_figures(
    outcomes: Sequence[TimedResponse], peak: float, start: float, end: float
) -> dict[str, float]:
    """The figures of an overload, whose goodput is counted from `start` to `end`."""
    refused = [1000 * each.seconds for each in outcomes if each.status == 429]
    return {
        "overload.goodput": per_second(outcomes, start, end) / peak,
        "overload.peak": peak,
        "overload.refused": len(refused),
        "overload.refused_p50_ms": percentile(refused, 50),
        "overload.refused_p99_ms": percentile(refused, 99),
        "overload.failed": sum(each.status not in (200, 429) for each in outcomes),
    }


async def _attacked(half: int, silent: int, seconds: float) -> dict[str, float]:
    async with running(FAST) as server, session(server.url) as opened:
        alone = await _p99(opened, seconds)
        async with half_open(server.url, half) as connections:
            closed = asyncio.ensure_future(seconds_until_closed(connections))
            attacked = await _p99(opened, seconds)
            return {
                "overload.half_open_p99_ratio": attacked / alone,
                "overload.half_open_closed_seconds": await closed,
                **await _never_read(server, opened, silent),
            }


async def _p99(opened: aiohttp.ClientSession, seconds: float) -> float:
    outcomes = await send_in_turns(lambda: post(opened, BODY), NORMAL_CLIENTS, after(seconds))
    return percentile([each.seconds for each in outcomes], 99)


async def _never_read(
    server: WatchedServer, opened: aiohttp.ClientSession, clients: int
) -> dict[str, float]:
    [router] = server.children("router")
    before = usage(router, 0.0).memory_mib
    async with never_reading(server.url, clients, STREAM_TOKENS):
        cut = asyncio.ensure_future(seconds_until_connections(opened, NORMAL_CLIENTS + 1))
        most = before
        while not cut.done():
            most = max(most, usage(router, 0.0).memory_mib)
            await asyncio.sleep(0.1)
    return {
        "overload.never_read_mib": most - before,
        "overload.never_read_cut_seconds": await cut,
    }
