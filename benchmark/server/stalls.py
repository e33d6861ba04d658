"""What the heaviest requests cost another stream: gaps between its events, with and without them.

Rule: decides what is measured; what is sent is `heavy_requests`'. A real server with the echo in
place of a model, so that its Steps take next to nothing; one client streams, another sends one
request after the other. Only the router's own work can delay a token. The machine may, too, now
and then: so every gap is the median of several, of which a request that delays would delay all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import aiohttp

from benchmark.server.heavy_requests import HeavyRequest, heavy_requests

LAUNCHER = Path(__file__).resolve().parents[2] / "launcher.py"
MAX_TOTAL_TOKENS = 32_768
"""Most tokens of a request: the echo itself looks at every token of a new row."""
MAX_DELAY_MS = 25.0
"""Milliseconds by which a request may delay a token of another request."""
QUIET_SECONDS = 2.0
STREAM_TIMEOUT_SECONDS = 10.0
"""Seconds after which a stream without an event is broken."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--repeats`, `--only`, `--json`."""
    parser.add_argument("--repeats", type=int, default=3, help="of each request [default: 3]")
    parser.add_argument("--only", help="requests whose names contain this")
    parser.add_argument("--json", type=Path, help="write the figures there")


def run(args: argparse.Namespace) -> int:
    """The exit status: 1 if some token was delayed by more than is allowed."""
    requests = [each for each in heavy_requests(MAX_TOTAL_TOKENS) if (args.only or "") in each.name]
    with _serve_echo() as url:
        figures = asyncio.run(_measure(url, requests, args.repeats))
    for name, value in figures.items():
        print(f"{name}: {value:.1f} ms")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if figures["delayed"] > MAX_DELAY_MS else 0


@contextmanager
def _serve_echo() -> Iterator[str]:
    """The address of an echo."""
    limits = (
        "--max-total-tokens",
        str(MAX_TOTAL_TOKENS),
        "--max-batch-total-tokens",
        str(3 * MAX_TOTAL_TOKENS),
    )
    flags = ("--echo", "--hostname", "127.0.0.1", "-p", "0", *limits)
    server = subprocess.Popen(  # noqa: S603 - our own launcher
        (sys.executable, str(LAUNCHER), *flags), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        assert server.stdout  # noqa: S101 - by construction
        lines = iter(server.stdout.readline, b"")
        yield next(found[0].decode() for line in lines if (found := _ADDRESS.search(line)))
    finally:
        server.terminate()
        server.wait(60)


_ADDRESS = re.compile(rb"http://[\d.]+:\d+")


async def _measure(url: str, requests: Sequence[HeavyRequest], repeats: int) -> dict[str, float]:
    """Milliseconds: the longest gap of a quiet stream and of one during each request.

    `delayed` is the difference between the longest of all and the quiet one.
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
    """Of one stream, in milliseconds."""

    longest: float = 0.0
    last: float | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def record(self, now: float) -> None:
        """An event arrived; None before it does not count."""
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
    """The gaps of streams that follow each other until this is left."""
    gaps = _StreamGaps()
    stream = asyncio.create_task(_stream(url, gaps))
    await gaps.next()
    yield gaps
    for _ in range(2):  # the gap that the end of a request leaves is its own, too
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
    """Send it and read the answer. Raises RuntimeError for another status than is expected."""
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
        raise RuntimeError(f"{heavy.name}: {status} in place of {heavy.status}")
