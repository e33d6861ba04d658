"""How long heavy requests delay another stream: the gaps between its events, with and without.

Rule: decides what is measured; `heavy_requests` decides what is sent. A real server runs the echo
engine, whose Steps take almost no time; one client streams while another sends one request after
the other. So only the router's own work can delay a token. Since the machine delays tokens
occasionally, every gap is the median of several; a request that causes a delay causes it each time.

With `--model-id`, `full_prompt` measures a real model instead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import aiohttp

from benchmark.server import full_prompt
from benchmark.server.heavy_requests import HeavyRequest, heavy_requests
from benchmark.server.server import serving

MAX_TOTAL_TOKENS = 32_768
"""Maximum tokens of a request; the echo engine reads every token of a new row."""
ECHO = (
    *("--echo", "--max-total-tokens", str(MAX_TOTAL_TOKENS)),
    *("--max-batch-total-tokens", str(3 * MAX_TOTAL_TOKENS)),
)
"""Flags of the server."""
MAX_DELAY_MS = 25.0
"""Milliseconds by which a request may delay a token of another request."""
QUIET_SECONDS = 2.0
STREAM_TIMEOUT_SECONDS = 10.0
"""Seconds without an event after which a stream counts as broken."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `long-prompt`."""
    parser.add_argument(
        "--repeats", type=int, default=3, help="measurements of each request [default: 3]"
    )
    parser.add_argument("--only", help="only requests whose names contain this")
    parser.add_argument("--model-id", help="serve this model, and send prompts that fill it")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="repeat the full prompt for so long [default: 0]"
    )
    parser.add_argument("--json", type=Path, help="file for the metrics")


def run(args: argparse.Namespace) -> int:
    """Measure and print. Return 1 if a token was delayed by more than is allowed, else 0."""
    if args.model_id:
        return full_prompt.run(args.model_id, args.minutes, args.json)
    requests = [each for each in heavy_requests(MAX_TOTAL_TOKENS) if (args.only or "") in each.name]
    with serving(*ECHO) as url:
        figures = asyncio.run(_measure(url, requests, args.repeats))
    for name, value in figures.items():
        print(f"{name}: {value:.1f} ms")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if figures["delayed"] > MAX_DELAY_MS else 0


async def _measure(url: str, requests: Sequence[HeavyRequest], repeats: int) -> dict[str, float]:
    """Measure the longest gap of a stream alone and during each request, in milliseconds.

    `quiet` is the stream alone; `delayed` is the longest gap of all minus `quiet`.
    """
    figures = {"quiet": median([await _longest_gap(url, None) for _ in range(repeats)])}
    for heavy in requests:
        figures[heavy.name] = median([await _longest_gap(url, heavy) for _ in range(repeats)])
    return {**figures, "delayed": max(figures.values()) - figures["quiet"]}


async def _longest_gap(url: str, heavy: HeavyRequest | None) -> float:
    async with _watch_stream(url) as gaps:
        if heavy is None:
            await asyncio.sleep(QUIET_SECONDS)
        else:
            await asyncio.to_thread(_post, url, heavy)
    return gaps.longest


@dataclass
class _StreamGaps:
    """The gaps between the events of one stream, in milliseconds."""

    longest: float = 0.0
    last: float | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def record(self, now: float) -> None:
        """Record an event at `now`, in seconds; the first event of a stream ends no gap."""
        if self.last is not None:
            self.longest = max(self.longest, 1000 * (now - self.last))
        self.last = now
        self.arrived.set()

    async def next(self) -> None:
        """Wait for an event. Raises TimeoutError."""
        self.arrived.clear()
        async with asyncio.timeout(STREAM_TIMEOUT_SECONDS):
            await self.arrived.wait()


@asynccontextmanager
async def _watch_stream(url: str) -> AsyncIterator[_StreamGaps]:
    """Measure gaps of one stream after the other while the context is open."""
    gaps = _StreamGaps()
    stream = asyncio.create_task(_stream(url, gaps))
    await gaps.next()
    yield gaps
    for _ in range(2):  # a delay at the end of the request counts as well
        await gaps.next()
    stream.cancel()
    await asyncio.wait([stream])


async def _stream(url: str, gaps: _StreamGaps) -> None:
    parameters = {"max_new_tokens": MAX_TOTAL_TOKENS - 100, "ignore_eos_token": True}
    body = {"inputs": "def main():", "parameters": parameters}
    async with aiohttp.ClientSession() as session:
        while True:
            gaps.last = None
            async with session.post(f"{url}/generate_stream", json=body) as answer:
                async for _ in answer.content:
                    gaps.record(time.perf_counter())


def _post(url: str, heavy: HeavyRequest) -> None:
    """Send the request and read the response. Raises RuntimeError for an unexpected status."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url + heavy.path, heavy.body, headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=100) as answer:  # noqa: S310
            status = answer.status
            while answer.read(1 << 16):
                pass
    except urllib.error.HTTPError as refused:
        with refused:
            status = refused.code
    if status != heavy.status:
        raise RuntimeError(f"{heavy.name}: status {status}, expected {heavy.status}")
