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
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmark.faults.virtual import clients
from benchmark.faults.virtual.episode import Episode, run_episode

EPISODE_REQUESTS = 500
ENDS = (
    *(clients.COMPLETE, clients.LEFT, clients.REFUSED),
    *(clients.CANCELLED, clients.FAILED, clients.BLAMED, clients.LOST),
)
PROGRESS_EPISODES = 50
MAX_PRINTED = 5
"""Violations of one episode that are printed."""


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


def run(args: argparse.Namespace) -> int:
    """Simulate, print and write the figures. Return 1 if a rule was violated, else 0."""
    count = -(-args.requests // EPISODE_REQUESTS)
    episodes: list[Episode] = []
    for seed in range(args.seed, args.seed + count):
        episodes.append(run_episode(seed, EPISODE_REQUESTS))
        _report(episodes[-1])
        if args.json and len(episodes) % PROGRESS_EPISODES == 0:
            _write(args.json, episodes)
    results = figures(episodes)
    for name, value in results.items():
        print(f"{name:32} {value:.6g}")
    if args.json:
        _write(args.json, episodes)
    return 1 if results["simulation.violations"] else 0


def figures(episodes: Iterable[Episode]) -> dict[str, float]:
    """The figures of the head of this file."""
    done = list(episodes)
    ends = sum((episode.ends for episode in done), Counter[str]())
    return {
        "simulation.requests": ends.total(),
        "simulation.episodes": len(done),
        "simulation.failures": sum(episode.failures for episode in done),
        "simulation.gave_up": sum(episode.gave_up for episode in done),
        "simulation.violations": sum(len(episode.violations) for episode in done),
        "simulation.hours": sum(episode.seconds for episode in done) / 3600,
        "simulation.longest_seconds": max((episode.longest for episode in done), default=0.0),
        **{f"simulation.{how}": ends[how] for how in ENDS},
    }


def _report(episode: Episode) -> None:
    for violation in episode.violations[:MAX_PRINTED]:
        print(f"seed {episode.seed}: {violation}", file=sys.stderr, flush=True)


def _write(path: Path, episodes: Iterable[Episode]) -> None:
    path.write_text(json.dumps({"figures": figures(episodes)}, indent=1) + "\n")
