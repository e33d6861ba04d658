"""Does what one client sends reach another: in its latency, in memory, or through cached prompts?

The first server runs the echo engine. Clients send what is long or hostile; meanwhile `/health` is
asked for, whose answers wait for the event loop and for nothing else. The second server shares no
prefixes between API keys. One key's prompts are cached when another key, or the same, sends them.
Last, two tenants share a device in virtual time. Figures:

- `isolation.long_text_ms`: 99th percentile of the latency of `/health` while texts of 1.9 MB are
  tokenized; `isolation.hostile_ms`: the same next to hostile requests.
- `isolation.hostile_mib`: memory that a million chunks of one byte, 100,000 trailers, and headers
  that are too large or too many cost the router.
- `isolation.other_key_ttft`: relative difference between the median time to the first token of a
  prompt that another key has cached, and of one that nobody has; `isolation.own_key_ttft`: the
  ratio of a prompt that the same key has cached. `isolation.prompts` counts each.
- `isolation.flooded_ttft`: median time to the first token of a tenant next to one that has ten
  times as many clients, relative to next to one that has as many, with `--laps-fairness`.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from benchmark.figures import publish
from benchmark.load.attackers import send_and_drain
from benchmark.load.process_usage import usage
from benchmark.load.requests import percentile, probe_health, session
from benchmark.load.tenants import flooded_ttft
from benchmark.server.watched_server import WatchedServer, running

LONG_TEXT = "the quick brown fox " * 95_000
LONG_CLIENTS, LONG_ROUNDS = 4, 4
HEAD = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HEAD += b"Connection: close\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
HOSTILE = (
    CHUNKED + b"1\r\n \r\n" * 1_000_000,
    CHUNKED + b"e\r\n" + b'{"inputs":"a"}' + b"\r\n0\r\n" + b"x: y\r\n" * 100_000 + b"\r\n",
    HEAD + b"X: " + b"y" * 9216 + b"\r\n\r\n",
    HEAD + b"".join(b"x-%d: y\r\n" % number for number in range(129)) + b"\r\n",
)
HOSTILE_ROUNDS = 1
KEYS = ("first-key-of-the-benchmark", "second-key-of-the-benchmark")
SALTED = ("--prefix-cache-per-key", "true", "--max-total-tokens", "2048")
PROMPT = "return the name of the module that defines the class and its first method; " * 60
TRIALS = 40
WARM_UP_TRIALS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `isolation`."""
    parser.add_argument("--json", type=Path, help="file for the figures")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write the figures."""
    figures = asyncio.run(_measure()) | {"isolation.flooded_ttft": flooded_ttft()}
    publish(figures, args.json)
    return 0


async def _measure() -> dict[str, float]:
    async with running(("--echo",)) as server, session(server.url) as opened:
        figures = {"isolation.long_text_ms": await _p99_ms(opened, _tokenize_long(opened))}
        figures |= await _hostile(server, opened)
    with tempfile.NamedTemporaryFile("w") as keys:
        keys.write("\n".join(KEYS))
        keys.flush()
        flags = (*SALTED, "--api-key-file", keys.name)
        async with running(flags) as server, session(server.url) as opened:
            return figures | await _cached_prompts(opened)


async def _p99_ms(opened: aiohttp.ClientSession, work: Coroutine[Any, Any, None]) -> float:
    """99th percentile of the latency of health checks until `work` is done, in milliseconds."""
    task = asyncio.ensure_future(work)
    latencies = await probe_health(opened, task.done)
    await task
    return 1000 * percentile(latencies, 99)


async def _tokenize_long(opened: aiohttp.ClientSession) -> None:
    async def client() -> None:
        for _ in range(LONG_ROUNDS):
            async with opened.post("/tokenize", json={"inputs": LONG_TEXT}) as response:
                response.raise_for_status()
                await response.read()

    await asyncio.gather(*(client() for _ in range(LONG_CLIENTS)))


async def _hostile(server: WatchedServer, opened: aiohttp.ClientSession) -> dict[str, float]:
    [router] = server.children("router")
    await send_and_drain(server.url, HOSTILE)
    before = usage(router, 0.0).memory_mib

    async def attack() -> None:
        for _ in range(HOSTILE_ROUNDS):
            await send_and_drain(server.url, HOSTILE)

    slowest = await _p99_ms(opened, attack())
    grown = usage(router, 0.0).memory_mib - before
    return {"isolation.hostile_ms": slowest, "isolation.hostile_mib": grown}


async def _cached_prompts(opened: aiohttp.ClientSession) -> dict[str, float]:
    """Compare prompts that nobody, the other key and the same key have sent before."""
    seconds: dict[str, list[float]] = {"cold": [], "other": [], "own": []}
    for trial in range(WARM_UP_TRIALS + TRIALS):
        hot, cold = f"{trial} hot {PROMPT}", f"{trial} new {PROMPT}"
        await _ttft(opened, KEYS[0], hot)
        tries = [("cold", KEYS[1], cold), ("other", KEYS[1], hot)]
        for name, key, prompt in (*tries[:: 1 if trial % 2 else -1], ("own", KEYS[0], hot)):
            seconds[name].append(await _ttft(opened, key, prompt))
    nobody, another, same = (median(each[WARM_UP_TRIALS:]) for each in seconds.values())
    return {
        "isolation.prompts": TRIALS,
        "isolation.other_key_ttft": abs(another / nobody - 1),
        "isolation.own_key_ttft": same / nobody,
    }


async def _ttft(opened: aiohttp.ClientSession, key: str, prompt: str) -> float:
    """Seconds to the first event of a stream of one token."""
    body = {"inputs": prompt, "parameters": {"max_new_tokens": 1}}
    headers = {"Authorization": f"Bearer {key}"}
    sent = time.monotonic()
    async with opened.post("/generate_stream", json=body, headers=headers) as response:
        response.raise_for_status()
        await response.content.readline()
        return time.monotonic() - sent
