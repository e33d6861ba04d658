"""What the longest prompt costs another stream: gaps between its events, with and without one.

Rule: decides what is sent and measured. A real server with the echo in place of a model, so that
its Steps take next to nothing; one client streams, another sends prompts of 1.9 MB, which are too
long and therefore refused after they were tokenised. Only the router's own work can delay a token.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

LAUNCHER = Path(__file__).resolve().parent.parent / "launcher.py"
SIZE = 1_900_000
"""Bytes of the prompt; the server takes bodies of 2,000,000."""
ALLOWED = 25.0
"""Milliseconds by which a prompt may delay a token of somebody else."""
TOKENS = 1800
ROUTES = ("/generate", "/v1/completions", "/v1/chat/completions")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--repeats`, `--json`."""
    parser.add_argument("--repeats", type=int, default=3, help="prompts to each route [default: 3]")
    parser.add_argument("--json", type=Path, help="write the figures there")


def run(args: argparse.Namespace) -> int:
    """The exit status: 1 if some token was delayed by more than is allowed."""
    with _serving() as url:
        figures = asyncio.run(_measure(url, args.repeats))
    for name, value in figures.items():
        print(f"{name}: {value:.1f} ms")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if figures["delayed"] > ALLOWED else 0


@contextmanager
def _serving() -> Iterator[str]:
    """The address of an echo."""
    flags = ("--echo", "--hostname", "127.0.0.1", "-p", "0", "--max-total-tokens", "2048")
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


async def _measure(url: str, repeats: int) -> dict[str, float]:
    """Milliseconds: the longest gap of a quiet stream, of one beside long prompts, the difference.

    Every stream of the second kind is quiet at first, so that no prompt falls between two streams.
    """
    await _stream(url)
    quiet = max([await _stream(url) for _ in range(repeats)])
    gaps = []
    for route in ROUTES * repeats:
        stream = asyncio.create_task(_stream(url))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(_post, url + route, _body(route))
        gaps.append(await stream)
    return {"quiet": quiet, "beside_prompts": max(gaps), "delayed": max(gaps) - quiet}


async def _stream(url: str) -> float:
    """The longest gap between events of one answer, in milliseconds."""
    parameters = {"max_new_tokens": TOKENS, "ignore_eos_token": True}
    body = {"inputs": "def main():", "parameters": parameters}
    gap, last = 0.0, None
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/generate_stream", json=body) as answer,
    ):
        async for _ in answer.content:
            now = time.perf_counter()
            gap = max(gap, now - (last or now))
            last = now
    return gap * 1000


def _post(url: str, body: bytes) -> None:
    """Send a body that will be refused. Raises RuntimeError for any other answer than a 422."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310
    try:
        urllib.request.urlopen(request, timeout=60).close()  # noqa: S310
    except urllib.error.HTTPError as refused:
        with refused:
            if refused.code == 422:
                return
    raise RuntimeError(f"{url} did not refuse a prompt that is too long")


def _body(route: str) -> bytes:
    line = "def add(left, right):\n    return left + right  # 加\n"
    text = line * (SIZE // len(json.dumps(line, ensure_ascii=False).encode()))
    bodies: dict[str, Any] = {
        "/generate": {"inputs": text},
        "/v1/completions": {"prompt": text},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": text}]},
    }
    return json.dumps(bodies[route], ensure_ascii=False).encode()
