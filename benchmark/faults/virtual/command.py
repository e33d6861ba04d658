"""The router over simulated ranks, network and time, with faults: is a request ever lost or wrong?

Dispatcher, scheduler, recovery and shard group are the shipped ones. Ranks die, hang, stop, repeat
or contradict themselves and send junk, at random points; frames arrive late and in pieces; rows
fail; clients disconnect, cancel and read slowly. Every answer is compared with the right one.
Figures:

- `simulation.requests`, `simulation.episodes`, `simulation.failures`: what was simulated; a failure
  is one of the shards.
- `simulation.violations`: requests that were lost, ended twice or wrongly, and rows, pages or
  permits that were held at the end.
- `simulation.complete`, and `left`, `refused`, `cancelled`, `failed`, `blamed`, `lost`: how they
  ended. Only a server whose shards failed too often, as `gave_up` counts, may lose any; a
  request is blamed only after more than `MAX_RESTARTS` failures.
- `simulation.hours`: virtual time. `simulation.longest_seconds`: the longest request.

An episode is a function of its seed: `--seed S --requests 500` repeats the episode that S names.
Episodes run in the order of their seeds, so `--resume` goes on after the last one that the file of
`--json` counts, until there are `--requests` in all; `--seconds` ends a part of a long run.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial, reduce
from math import inf
from pathlib import Path
from typing import Any

from benchmark.faults.virtual import clients
from benchmark.faults.virtual.episode import Episode, run_episode

EPISODE_REQUESTS = 500
ENDS = (
    *(clients.COMPLETE, clients.LEFT, clients.REFUSED),
    *(clients.CANCELLED, clients.FAILED, clients.BLAMED, clients.LOST),
)
LONGEST = "simulation.longest_seconds"
PROGRESS_EPISODES = 20
MAX_PRINTED = 5
"""Violations of one episode that are printed and written."""
GARBAGE_THRESHOLD = 50_000
"""New objects until garbage is collected: an episode has few cycles and many objects."""

Figures = Mapping[str, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `simulate`."""
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument(
        "--requests",
        type=int,
        default=5000,
        help=f"number of requests, in episodes of {EPISODE_REQUESTS}",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the first episode")
    parser.add_argument("--processes", type=int, default=1, help="episodes at a time")
    parser.add_argument(
        "--seconds", type=float, default=inf, help="end after about so many seconds"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the file of `--json`")


def run(args: argparse.Namespace) -> int:
    """Simulate, print and write the figures. Return 1 if a rule was violated, else 0."""
    done = json.loads(args.json.read_text()) if args.resume else {"figures": {}, "violations": []}
    first = args.seed + int(done["figures"].get("simulation.episodes", 0))
    seeds = range(first, args.seed + -(-args.requests // EPISODE_REQUESTS))
    end = time.monotonic() + args.seconds
    with closing(_episodes(seeds, args.processes)) as episodes:
        for number, episode in enumerate(episodes, 1):
            done = add(done, episode)
            if number % PROGRESS_EPISODES == 0:
                _report(done, args.json)
            if time.monotonic() >= end:
                break
    _report(done, args.json)
    for name, value in done["figures"].items():
        print(f"{name:32} {value:.6g}")
    return 1 if done["violations"] else 0


def add(done: Mapping[str, Any], episode: Episode) -> dict[str, Any]:
    """The content of the `--json` file with one more episode. Prints its violations."""
    lines = [f"seed {episode.seed}: {text}" for text in episode.violations[:MAX_PRINTED]]
    for line in lines:
        print(line, file=sys.stderr, flush=True)
    return {
        "figures": merged(done["figures"], figures_of(episode)),
        "violations": [*done["violations"], *lines],
    }


def figures(episodes: Iterable[Episode]) -> Figures:
    """The figures of the head of this file."""
    return reduce(merged, map(figures_of, episodes), {})


def merged(some: Figures, others: Figures) -> Figures:
    """The figures of two parts of a run together."""
    return {
        name: (max if name == LONGEST else sum)((some.get(name, 0), others[name]))
        for name in others
    }


def figures_of(episode: Episode) -> Figures:
    """The figures of one episode."""
    return {
        "simulation.requests": episode.ends.total(),
        "simulation.episodes": 1,
        "simulation.failures": episode.failures,
        "simulation.gave_up": int(episode.gave_up),
        "simulation.violations": len(episode.violations),
        "simulation.hours": episode.seconds / 3600,
        LONGEST: episode.longest,
        **{f"simulation.{how}": episode.ends[how] for how in ENDS},
    }


def _episodes(seeds: Iterable[int], processes: int) -> Generator[Episode, None, None]:
    """The episodes in the order of `seeds`."""
    simulate = partial(run_episode, requests=EPISODE_REQUESTS)
    with ProcessPoolExecutor(processes, initializer=_collect_rarely) as pool:
        yield from pool.map(simulate, seeds)  # cancels what has not begun if it is closed


def _collect_rarely() -> None:
    """Collect garbage less often than Python does by default."""
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD)


def _report(done: Mapping[str, Any], path: Path | None) -> None:
    """Print the progress, and write the file."""
    counted = {name.partition(".")[2]: value for name, value in done["figures"].items()}
    print(
        f"{counted.get('requests', 0):g} requests, {counted.get('failures', 0):g} failures,"
        f" {counted.get('violations', 0):g} violations",
        file=sys.stderr,
        flush=True,
    )
    if path:
        path.write_text(json.dumps(done, indent=1) + "\n")
