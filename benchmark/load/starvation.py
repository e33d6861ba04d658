"""Does a long request end while short ones flood the server?

A server of the demo pair with four rows and a prefill budget of 64 tokens. First each kind of
request is served alone. Then 24 clients send requests of three tokens without a pause, and long
ones (prompt of 1,900 tokens, answer of 60) come on top, one after the other. A request is starved
if it has not ended within 30 s and ten times what it took alone. Figures:

- `live.starved`: starved requests, of both kinds; `live.short` and `live.long` count those sent.
- `live.longest_over_bound`: largest fraction of that time that a request has taken.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

from benchmark.figures import publish
from benchmark.load.requests import TimedResponse, post, send_in_turns, session
from benchmark.server.watched_server import running

FLAGS = ("--max-batch-size", "4", "--max-batch-prefill-tokens", "64")
CLIENTS = 24
BASE_SECONDS, FACTOR = 30.0, 10.0
SHORT = {"inputs": "def", "parameters": {"max_new_tokens": 3, "ignore_eos_token": True}}
LONG = {
    "inputs": "return the name of the module " * 600,
    "parameters": {"max_new_tokens": 60, "ignore_eos_token": True, "truncate": 1900},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `starvation`."""
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--long", type=int, default=3, help="number of long requests")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write the figures. Return 1 if a request starved, else 0."""
    figures = asyncio.run(_measure(args.long))
    publish(figures, args.json)
    return 1 if figures["live.starved"] else 0


async def _measure(long: int) -> dict[str, float]:
    done = asyncio.Event()
    async with running(FLAGS) as server, session(server.url) as opened:
        alone = [await post(opened, _salted(body, "alone")) for body in (SHORT, LONG)]
        flood = asyncio.ensure_future(
            send_in_turns(lambda: post(opened, SHORT), CLIENTS, done.is_set)
        )
        outcomes = [await post(opened, _salted(LONG, f"{number}")) for number in range(long)]
        done.set()
        return figures(await flood, outcomes, *(each.seconds for each in alone))


def figures(
    short: Sequence[TimedResponse],
    long: Sequence[TimedResponse],
    short_alone: float,
    long_alone: float,
) -> dict[str, float]:
    """The figures of the head of this file, from the seconds that each kind takes alone."""
    fractions = [_fraction(each, short_alone) for each in short]
    fractions += [_fraction(each, long_alone) for each in long]
    return {
        "live.starved": sum(fraction > 1 for fraction in fractions),
        "live.short": len(short),
        "live.long": len(long),
        "live.longest_over_bound": max(fractions),
    }


def _fraction(outcome: TimedResponse, alone: float) -> float:
    """The latency as a fraction of its bound; infinite if the request did not succeed."""
    return outcome.seconds / (BASE_SECONDS + FACTOR * alone) if outcome.status == 200 else inf


def _salted(body: Mapping[str, Any], salt: str) -> dict[str, Any]:
    """`body` with a cache salt of its own, so that no prefix is shared."""
    return {**body, "parameters": {**body["parameters"], "cache_salt": salt}}
