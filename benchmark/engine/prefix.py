"""Measure what sharing a prefix saves, and its effect on the time to first token.

Eight requests share a prefix of 512 tokens and go through scheduler and engine one after another.
The comparison is eight requests of the same lengths with nothing in common. The ratio is that of
the median times to first token of the second and later requests. Both kinds are interleaved.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from random import Random

from benchmark.demo import engine as demo_engine
from benchmark.engine.in_process import InProcessLoop, InProcessRequest, device_capacity
from router.scheduler.planner import Planner
from router.scheduler.policies.baselines import Fcfs
from shard.engine import Engine

REQUESTS = 8
PREFIX = 512
_UNSHARED_TOKENS = 16
"""Tokens of each prompt after the prefix."""
_ANSWER_TOKENS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `prefix`."""
    parser.add_argument("--json", type=Path, help="file for the metrics")
    parser.add_argument("--rounds", type=int, default=3, help="times that each case is measured")
    parser.add_argument("--target", help="folder of another target model")
    parser.add_argument("--draft", help="folder of its draft")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write the results. Return the exit status."""
    figures = measure(demo_engine.load(args.target, args.draft), args.rounds)
    for name, value in figures.items():
        print(f"{name:28} {value:10.4f}")
    if args.json:
        args.json.write_text(json.dumps({"figures": figures}, indent=2) + "\n")
    return 0


def measure(engine: Engine, rounds: int) -> dict[str, float]:
    """Times to first token and tokens computed of the second and later requests."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    computed = 0
    serve(engine, False, 0)
    for number in range(rounds):
        for shared, times in seconds.items():
            later = serve(engine, shared, number)[1:]
            times.extend(call.first_token - call.arrived for call in later)
            if shared:
                computed = max(computed, *(call.prefilled - _UNSHARED_TOKENS for call in later))
    with_prefix, without = (statistics.median(times) for times in seconds.values())
    return {
        "prefix.ttft_ratio": with_prefix / without,
        "prefix.ttft_shared_seconds": with_prefix,
        "prefix.ttft_unshared_seconds": without,
        "prefix.tokens_computed_again": float(computed),
    }


def serve(engine: Engine, shared: bool, seed: int) -> list[InProcessRequest]:
    """Serve the requests one after another; the scheduler starts without any prefix."""
    engine.reset()
    loop = InProcessLoop(engine, Planner(device_capacity(engine.ready()), Fcfs()))
    calls = [
        InProcessRequest(id, prompt, _ANSWER_TOKENS)
        for id, prompt in enumerate(_prompts(shared, seed))
    ]
    for call in calls:
        loop.submit(call)
        loop.run()
    return calls


def _prompts(shared: bool, seed: int) -> list[tuple[int, ...]]:
    random = Random(seed)  # noqa: S311 - prompts, no secrets

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(random.randrange(2, 90) for _ in range(count))

    prefix = tokens(PREFIX)
    return [
        (prefix if shared else tokens(PREFIX)) + tokens(_UNSHARED_TOKENS) for _ in range(REQUESTS)
    ]
