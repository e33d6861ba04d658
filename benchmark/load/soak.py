"""Mixed load with faults for minutes or hours: what grows, and what is lost?

A server of the demo pair gets the requests of `benchmark faults` at random times, again and again:
all kinds of parameters, with fixed seeds, so that every answer must equal the first one to the same
body. Some clients leave early. Now and then a shard is killed. The memory and descriptors
of the launcher and of the router are sampled; the first third of the run is warm-up. Figures:

- `soak.minutes`, `soak.requests`, `soak.left`, `soak.faults`: what was run.
- `soak.refused`: requests answered with 429, because the server was full.
- `soak.differing`: answers that differ from the first one; `soak.failed`: all other ends than 200.
- `soak.unaccounted`: requests that the server's counters say were neither answered nor failed.
- `soak.held`: permits, rows and waiting requests that the server still has at the end.
- `soak.memory_mib_per_hour`: slope of the resident memory of both after the warm-up, added.
- `soak.descriptors`: how many more they have open at the end than after the warm-up.

Sampled are the processes that live as long as the server: a shard is replaced by each fault.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from benchmark.faults.workload import bodies
from benchmark.figures import publish
from benchmark.load.attackers import gauge
from benchmark.load.process_usage import ProcessUsage, memory_slope, usage
from benchmark.load.requests import session
from benchmark.server.watched_server import WatchedServer, running

FLAGS = ("--max-batch-size", "12", "--max-batch-total-tokens", "4096", "--max-total-tokens", "1024")
BODIES = 64
LEAVING = 0.1
"""Probability that a client leaves within `MAX_STAY_SECONDS`."""
MAX_STAY_SECONDS = 1.0
SAMPLE_SECONDS = 2.0
WARM_UP = 1 / 3
"""Part of the run."""
HELD = ("tgi_permits_held", "tgi_batch_current_size", "tgi_queue_size")
SETTLING_SECONDS = 30.0
COUNTERS = ("tgi_request_count", "tgi_request_success", "tgi_request_failure")


@dataclass
class Soak:
    """What a run has shown so far."""

    answers: dict[int, str] = field(default_factory=dict)
    """The first one to each body, by its number."""
    ends: Counter[str] = field(default_factory=Counter)
    samples: dict[str, list[ProcessUsage]] = field(default_factory=lambda: defaultdict(list))
    """Of the launcher and of the router, in order of time."""

    def on_answer(self, number: int, status: int, text: str) -> None:
        """Note an answer to body `number`."""
        if status == 200:
            same = self.answers.setdefault(number, text) == text
            self.ends["same" if same else "differing"] += 1
        else:
            self.ends["refused" if status == 429 else "failed"] += 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `soak`."""
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the run")
    parser.add_argument("--per-second", type=float, default=4.0, help="arrivals per second")
    parser.add_argument(
        "--fault-seconds", type=float, default=90.0, help="time between two kills of a shard"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of requests and arrivals")


def run(args: argparse.Namespace) -> int:
    """Run, print and write the figures. Return 1 if a request was lost or wrong, else 0."""
    figures, soak = asyncio.run(_run(args))
    samples = {name: [astuple(each) for each in of] for name, of in soak.samples.items()}
    publish(figures, args.json, samples=samples)
    wrong = ("soak.differing", "soak.failed", "soak.unaccounted", "soak.held")
    return 1 if any(figures[name] for name in wrong) else 0


async def _run(args: argparse.Namespace) -> tuple[dict[str, float], Soak]:
    soak, end = Soak(), time.monotonic() + 60 * args.minutes
    async with running(FLAGS) as server, session(server.url) as opened:
        others = [
            asyncio.ensure_future(_sample(server, soak)),
            asyncio.ensure_future(_kill(server, args.fault_seconds, end, soak)),
        ]
        await _send_until(opened, args, soak, end)
        held = await _settle(opened)
        for task in others:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        counts = await _counters(opened)
    shown = {"soak.minutes": args.minutes, **figures(soak), **held, "soak.unaccounted": counts}
    return shown, soak


async def _send_until(
    opened: aiohttp.ClientSession, args: argparse.Namespace, soak: Soak, end: float
) -> None:
    """Send requests at random times until `end`, and wait for their answers."""
    random, requests = Random(args.seed), bodies(BODIES, args.seed)  # noqa: S311 - no secret
    async with asyncio.TaskGroup() as clients:
        while time.monotonic() < end:
            number = random.randrange(BODIES)
            leaves = random.random() < LEAVING
            stay = random.uniform(0, MAX_STAY_SECONDS) if leaves else None
            clients.create_task(_request(opened, number, requests[number], stay, soak))
            await asyncio.sleep(random.expovariate(args.per_second))


async def _request(
    opened: aiohttp.ClientSession, number: int, body: dict[str, Any], stay: float | None, soak: Soak
) -> None:
    """Send one request; its client leaves after `stay` seconds."""
    try:
        async with asyncio.timeout(stay), opened.post("/generate", json=body) as response:
            answer = await response.json()
            soak.on_answer(number, response.status, answer.get("generated_text", ""))
    except TimeoutError:
        soak.ends["left"] += 1


async def _sample(server: WatchedServer, soak: Soak) -> None:
    pids = {"launcher": server.pid, "router": server.children("router")[0]}
    while True:
        for name, pid in pids.items():
            soak.samples[name].append(usage(pid, time.monotonic()))
        await asyncio.sleep(SAMPLE_SECONDS)


async def _kill(server: WatchedServer, seconds: float, end: float, soak: Soak) -> None:
    """Kill a shard every `seconds`, and wait until it is back."""
    while time.monotonic() + 2 * seconds < end:
        await asyncio.sleep(seconds)
        os.kill(server.children("shard")[0], signal.SIGKILL)
        soak.ends["faults"] += 1
        await server.event("restarted")


async def _settle(opened: aiohttp.ClientSession) -> dict[str, float]:
    """What the server still holds, at the latest after `SETTLING_SECONDS`."""
    end = time.monotonic() + SETTLING_SECONDS
    while (held := await _held(opened)) and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return {"soak.held": held}


async def _held(opened: aiohttp.ClientSession) -> float:
    return sum([await gauge(opened, name) for name in HELD])


async def _counters(opened: aiohttp.ClientSession) -> float:
    """Requests that the server has counted at their beginning and not at their end."""
    async with opened.get("/metrics") as response:
        lines = (await response.text()).splitlines()
    begun, *ended = (
        sum(float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))
        for name in COUNTERS
    )
    return abs(begun - sum(ended))


def figures(soak: Soak) -> dict[str, float]:
    """The figures of the head of this file that a run itself has shown."""
    warm = [each[int(len(each) * WARM_UP) :] for each in soak.samples.values()]
    return {
        "soak.requests": soak.ends.total() - soak.ends["faults"],
        "soak.left": soak.ends["left"],
        "soak.refused": soak.ends["refused"],
        "soak.faults": soak.ends["faults"],
        "soak.differing": soak.ends["differing"],
        "soak.failed": soak.ends["failed"],
        "soak.memory_mib_per_hour": sum(map(memory_slope, warm)),
        "soak.descriptors": sum(each[-1].descriptors - each[0].descriptors for each in warm),
    }
