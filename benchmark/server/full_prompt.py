"""Prompts that fill the context of a real model, next to seven streams of short prompts.

Rule: decides what is sent and which figures are reported. Each round sends one prompt that leaves
room for a few new tokens only, while seven clients stream one answer after the other. A Step holds
one chunk of the prompt and a token of every stream, so no stream should wait longer than that chunk
and a Step of decoding take. Figures, in seconds unless said otherwise:

- `long_prompt.longest_gap`, and `.longest_gap_1` to `_7` of each stream: between two of its events
- `long_prompt.chunk`: the longest Step with a part of a prompt, by the router's step log
- `long_prompt.decode`: the median Step without one
- `long_prompt.longest_gap_over_chunk`: the ratio of the longest gap to `chunk` plus `decode`
- `long_prompt.rounds`, `.streams`, `.unanswered`, `.restarts`: numbers of rounds, of answers of
  the streams, of requests without a whole answer, and of restarts of the shards
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import aiohttp

from benchmark.server.watched_server import WatchedServer, running

STREAMS = 7
NEW_TOKENS = 16
"""New tokens of a full prompt."""
STREAM_TOKENS = 200
"""New tokens of one answer of a stream."""
TIMEOUT_SECONDS = 600.0
"""Time limit of one request."""
IDS = range(1000, 10_000)
"""Token ids that a full prompt is made of; no tokenizer has special tokens there."""


@dataclass
class ClientView:
    """What the clients have seen."""

    rounds: int = 0
    answers: int = 0
    unanswered: int = 0
    gaps: list[float] = field(default_factory=lambda: [0.0] * STREAMS)
    """The longest gap of each stream, in seconds."""


def run(model: str, minutes: float, path: Path | None) -> int:
    """Measure, print, and write JSON to `path`. Return 1 if anything went unanswered, else 0."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "steps")
        observed, restarts = asyncio.run(_measure(model, minutes, log))
        steps = [json.loads(line) for line in log.read_text().splitlines()[1:]]
    measured = figures(observed, steps, restarts)
    for name, value in measured.items():
        print(f"{name:36} {value:.3f}")
    if path:
        path.write_text(json.dumps(measured, indent=1) + "\n")
    return 1 if measured["long_prompt.unanswered"] or measured["long_prompt.restarts"] else 0


async def _measure(model: str, minutes: float, log: Path) -> tuple[ClientView, int]:
    """Rounds for so many minutes, at least one, and the number of restarts. Raises ServerFailed."""
    observed, end = ClientView(), time.monotonic() + 60 * minutes
    async with running(("--model-id", model, "--step-log", str(log)), os.environ) as server:
        while not observed.rounds or time.monotonic() < end:
            await _round(server.url, observed)
            print(f"round {observed.rounds}: {observed}", file=sys.stderr, flush=True)
        return observed, _restarts(server)


def _restarts(server: WatchedServer) -> int:
    return server.count("restarted") + server.count("router_restarted")


async def _round(url: str, observed: ClientView) -> None:
    """One full prompt while the streams run."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(url, timeout=timeout) as session:
        done, started = asyncio.Event(), asyncio.Barrier(STREAMS + 1)
        streams = [
            asyncio.create_task(_streams(session, number, observed, started, done))
            for number in range(STREAMS)
        ]
        await started.wait()
        observed.unanswered += not await _full_prompt(session, observed.rounds)
        done.set()
        await asyncio.gather(*streams)
    observed.rounds += 1


async def _full_prompt(session: aiohttp.ClientSession, seed: int) -> bool:
    """Send a full prompt that no other begins like; return whether it was answered whole."""
    async with session.get("/info") as response:
        tokens = (await response.json())["max_total_tokens"] - NEW_TOKENS
    prompt = Random(seed).choices(IDS, k=tokens)  # noqa: S311 - no secret is drawn
    body = {"prompt": prompt, "max_tokens": NEW_TOKENS}
    try:
        async with session.post("/v1/completions", json=body) as response:
            answer = await response.json()
    except (aiohttp.ClientError, TimeoutError):
        return False
    return bool(response.status == 200 and answer["usage"]["prompt_tokens"] == tokens)


async def _streams(
    session: aiohttp.ClientSession,
    number: int,
    observed: ClientView,
    started: asyncio.Barrier,
    done: asyncio.Event,
) -> None:
    """Stream one answer after the other until `done`; wait for `started` after the first token."""
    first = True
    while first or not done.is_set():
        arrivals = await _stream(session, number, started if first else None)
        first = False
        observed.answers += 1
        observed.unanswered += len(arrivals) != STREAM_TOKENS
        observed.gaps[number] = max(observed.gaps[number], longest_gap(arrivals))


async def _stream(
    session: aiohttp.ClientSession, number: int, started: asyncio.Barrier | None
) -> list[float]:
    """When the tokens of one answer arrived; fewer than `STREAM_TOKENS` if it was not answered."""
    parameters = {"max_new_tokens": STREAM_TOKENS, "ignore_eos_token": True}
    body = {"inputs": f"{number + 1} things to see in the city are", "parameters": parameters}
    arrivals = list[float]()
    try:
        async with session.post("/generate_stream", json=body) as response:
            async for line in response.content:
                if line.startswith(b"data:") and b'"token"' in line:
                    arrivals.append(time.monotonic())
                    if len(arrivals) == 1 and started:
                        await started.wait()
    except (aiohttp.ClientError, TimeoutError):
        pass  # counted by its length
    return arrivals


def longest_gap(arrivals: Sequence[float]) -> float:
    """The longest time between two arrivals; 0 for less than two."""
    return max((b - a for a, b in pairwise(arrivals)), default=0.0)


def figures(
    observed: ClientView, steps: Sequence[dict[str, Any]], restarts: int
) -> dict[str, float]:
    """The figures of the head of this file, from the lines of a step log."""
    chunks = [step["seconds"] for step in steps if any(row[2] for row in step["rows"])]
    decodes = [step["seconds"] for step in steps if not any(row[2] for row in step["rows"])]
    chunk, decode = max(chunks), median(decodes)
    gaps = {f"longest_gap_{place}": gap for place, gap in enumerate(observed.gaps, 1)}
    named = {
        "longest_gap_over_chunk": max(observed.gaps) / (chunk + decode),
        "longest_gap": max(observed.gaps),
        "chunk": chunk,
        "decode": decode,
        "rounds": observed.rounds,
        "streams": observed.answers,
        "unanswered": observed.unanswered,
        "restarts": restarts,
        **gaps,
    }
    return {f"long_prompt.{name}": value for name, value in named.items()}
