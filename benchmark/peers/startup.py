"""Seconds from the start of a server's process to its first token, and where they go.

Files are in the page cache: a start that does not count comes first. This server and llama.cpp
start in turns. Figures:

- `startup.first_token_seconds`: the bundled pair, with what an earlier start has measured
- `startup.first_start_seconds`: the bundled pair, where nothing has been measured
- `startup.smollm2_seconds`: SmolLM2, with what an earlier start has measured
- `startup.seconds_over_llama_cpp`: the same over llama.cpp's, by `xllamacpp`; below 1 is faster
- `startup.phase.NAME`: seconds of a phase of the bundled pair's start
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from benchmark.peers import llama_cpp, ours
from benchmark.peers.command import add_to_file, peer_options
from benchmark.peers.http_peer import http_peer
from benchmark.peers.peer import PeerFailed, PeerOptions, StartPeer
from benchmark.server.server import ServerFailed
from benchmark.server.watched_server import running

RANK = "rank 0"
"""The source of the events whose phases are reported."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="two rounds instead of five")
    parser.add_argument("--json", type=Path, help="file for the result; figures are added to it")
    parser.add_argument("--model", default="smollm2", help="name of a model in .models")
    parser.add_argument("--folder", type=Path, help="keep converted weights here")
    parser.add_argument("--llama-cpp-python", type=Path, help="Python of llama.cpp's environment")
    parser.set_defaults(dtype="float32")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write. Return 1 if a server fails, else 0."""
    with tempfile.TemporaryDirectory() as folder:
        python = args.llama_cpp_python or Path(sys.executable)
        options = peer_options(args, python, args.folder or Path(folder))
        rounds = 2 if args.quick else 5
        try:
            measured = asyncio.run(_bundled_pair(Path(folder), rounds))
            if args.llama_cpp_python:
                measured |= asyncio.run(_beside_llama_cpp(options, rounds))
        except (PeerFailed, ServerFailed) as error:
            print(f"startup: {error}", file=sys.stderr)
            return 1
    measured = {name: round(value, 3) for name, value in measured.items()}
    for name, value in measured.items():
        print(f"{name:44} {value:8.3f}")
    if args.json:
        add_to_file(args.json, measured, {})
    return 0


async def _bundled_pair(folder: Path, rounds: int) -> dict[str, float]:
    """Figures of the bundled pair. Raises ServerFailed."""
    flags = ("--measurement-cache", str(folder / "pair"))
    first, _ = await _bundled_start(("--measurement-cache", "none"))
    await _bundled_start(flags)
    starts = [await _bundled_start(flags) for _ in range(rounds)]
    seconds, phases = zip(*starts, strict=True)
    return {
        "startup.first_token_seconds": median(seconds),
        "startup.first_start_seconds": first,
        **{f"startup.phase.{name}": median(p[name] for p in phases) for name in phases[0]},
    }


async def _bundled_start(flags: Sequence[str]) -> tuple[float, Mapping[str, float]]:
    """Seconds to the first token, and of each phase of the start. Raises ServerFailed."""
    start = time.perf_counter()
    async with (
        running(flags, os.environ) as server,
        http_peer(server.url, {"model": "any"}) as peer,
    ):
        await peer.complete(["Once upon"], 1)
        return time.perf_counter() - start, phases(server.seen)


def phases(events: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds from each phase of a rank's start to the next, by the name before a colon.

    The launcher's times are compared, since a rank reports seconds of a clock of its own.
    """
    begins: dict[str, float] = {}
    for event in events:
        if "seconds" in event and event.get("source", RANK) == RANK:
            text = event["message"] if event["event"] == "progress" else event["event"]
            name = str(text).partition(":")[0].replace(" ", "_")
            at = datetime.fromisoformat(event["timestamp"]).timestamp()
            if not begins:
                begins["imports"] = at - float(event["seconds"])
            begins.setdefault(name, at)
    return {name: later - at for (name, at), (_, later) in pairwise(begins.items())}


async def _beside_llama_cpp(options: PeerOptions, rounds: int) -> dict[str, float]:
    """Figures of the model of `options`. Raises PeerFailed."""
    seconds: dict[StartPeer, list[float]] = {ours.started: [], llama_cpp.started: []}
    for _ in range(rounds + 1):
        for start, each in seconds.items():
            each.append(await _first_token(start, options))
    own, theirs = (each[1:] for each in seconds.values())
    return {
        "startup.smollm2_seconds": median(own),
        "startup.llama_cpp_seconds": median(theirs),
        "startup.seconds_over_llama_cpp": median(a / b for a, b in zip(own, theirs, strict=True)),
    }


async def _first_token(start: StartPeer, options: PeerOptions) -> float:
    began = time.perf_counter()
    async with start(options) as peer:
        await peer.complete(["Once upon"], 1)
        return time.perf_counter() - began
