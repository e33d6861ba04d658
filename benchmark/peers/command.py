"""Tokens per second of this server and of its peers, on the same weights and machine, in turns.

A round asks each peer in turn for the completions of 1, 8 and 32 prompts at once, greedily and
without drafts; figures are medians over rounds of ratios within a round. Peers run at the same
time and wait while another is asked. A peer takes part if the Python of an environment in which it
is installed is named. Figures, where more than 1 means that this server is faster:

- `peers.plain_b1_over_llama_cpp`, `_b8`, `_b32`: llama.cpp, by `xllamacpp`
- `peers.b1_over_transformers_serve`, `_b8`, `_b32`: transformers' continuous batching
- `peers.b1_over_openvino`, `_b8`, `_b32`: openvino-genai's continuous batching

In bfloat16 the names begin with `peers.bfloat16.`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmark.models.prepare import FOLDER
from benchmark.peers import llama_cpp, openvino, ours, transformers_serve
from benchmark.peers.peer import MAX_CLIENTS, Peer, PeerFailed, PeerOptions, StartPeer

OURS = "ours"
PEERS: dict[str, StartPeer] = {
    "llama_cpp": llama_cpp.started,
    "transformers_serve": transformers_serve.started,
    "openvino": openvino.started,
}
FIGURES = {
    "llama_cpp": "plain_b{clients}_over_llama_cpp",
    "transformers_serve": "b{clients}_over_transformers_serve",
    "openvino": "b{clients}_over_openvino",
}
CLIENTS = (1, 8, MAX_CLIENTS)
"""Numbers of prompts at once."""
QUICK, THOROUGH = (2, 12), (5, 32)
"""Rounds, and new tokens of each completion; one prompt alone gets twice as many."""
Speeds = dict[str, dict[int, list[float]]]
"""Tokens per second of each round, by peer and number of prompts."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="two short rounds instead of five")
    parser.add_argument("--json", type=Path, help="file for the result; figures are added to it")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--model", default="smollm2", help="name of a model in .models")
    parser.add_argument("--folder", type=Path, help="keep converted weights here")
    for name in PEERS:
        flag = f"--{name.replace('_', '-')}-python"
        parser.add_argument(flag, type=Path, help="Python of the peer's environment")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write. Return 1 if a peer fails, else 0."""
    pythons = {name: path for name in PEERS if (path := getattr(args, f"{name}_python"))}
    with tempfile.TemporaryDirectory() as folder:
        options = {
            name: peer_options(args, python, args.folder or Path(folder))
            for name, python in {OURS: Path(sys.executable), **pythons}.items()
        }
        try:
            speeds = asyncio.run(measure(options, *(QUICK if args.quick else THOROUGH)))
        except PeerFailed as error:
            print(f"peers: {error}", file=sys.stderr)
            return 1
    measured = figures(speeds, "peers." if args.dtype == "float32" else f"peers.{args.dtype}.")
    for name, value in measured.items():
        print(f"{name:44} {value:8.3f}")
    if args.json:
        add_to_file(args.json, measured, {args.dtype: speeds})
    return 0


def peer_options(args: argparse.Namespace, python: Path, folder: Path) -> PeerOptions:
    """What the peer with `python` serves."""
    model, gguf = FOLDER / args.model, FOLDER / f"{args.model}.gguf"
    return PeerOptions(model, gguf, args.dtype, python, folder)


async def measure(options: dict[str, PeerOptions], rounds: int, new_tokens: int) -> Speeds:
    """Ask all peers in turn, after one prompt each that does not count. Raises PeerFailed."""
    speeds: Speeds = {name: {clients: [] for clients in CLIENTS} for name in options}
    async with AsyncExitStack() as stack:
        started = {OURS: ours.started, **PEERS}
        peers = {}
        for name, each in options.items():
            peers[name] = await stack.enter_async_context(started[name](each))
            print(f"{name} is ready", file=sys.stderr, flush=True)
        for peer in peers.values():
            await peer.complete(["warm up"], 4)
        for number in range(rounds):
            for clients in CLIENTS:
                for name, peer in peers.items():
                    speed = await _speed(peer, prompts(number, clients), new_tokens)
                    speeds[name][clients].append(speed)
                    progress = f"round {number + 1} of {rounds}, {clients} clients, {name}"
                    print(f"{progress}: {speed:.1f} tokens/s", file=sys.stderr, flush=True)
    return speeds


async def _speed(peer: Peer, texts: Sequence[str], new_tokens: int) -> float:
    """New tokens per second, with the time for the prompts."""
    start = time.perf_counter()
    count = await peer.complete(texts, 2 * new_tokens if len(texts) == 1 else new_tokens)
    return count / (time.perf_counter() - start)


def prompts(number: int, clients: int) -> list[str]:
    """Prompts of the round `number` that no other begins like."""
    return [
        f"{number}.{clients}.{client} A long list of things to see in a large city:"
        for client in range(clients)
    ]


def figures(speeds: Speeds, prefix: str) -> dict[str, float]:
    """The figures of the head of this file, and every peer's median speed."""
    ratios = {
        prefix + FIGURES[name].format(clients=clients): median(
            own / other for own, other in zip(speeds[OURS][clients], each, strict=True)
        )
        for name, by_clients in speeds.items()
        if name != OURS
        for clients, each in by_clients.items()
    }
    own = {f"{prefix}ours_b{n}_tokens_per_second": median(s) for n, s in speeds[OURS].items()}
    return {name: round(value, 3) for name, value in {**ratios, **own}.items()}


def add_to_file(path: Path, measured: dict[str, float], details: dict[str, Any]) -> None:
    """Merge the result of this run into the file of earlier ones, with the machine's load."""
    result = json.loads(path.read_text()) if path.exists() else {"figures": {}, "runs": []}
    result["figures"].update(measured)
    result["runs"].append({"load": os.getloadavg()[0], **details})
    path.write_text(json.dumps(result, indent=1) + "\n")
