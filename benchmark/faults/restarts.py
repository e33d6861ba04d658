"""Launchers that are killed, and servers that are started again on their port.

Servers run the echo engine. In each kill a launcher gets SIGKILL at a random moment, while it
loads or serves; a second later no process may be left that it has started. In each restart a server
is ended by SIGTERM and started again on the same port, which several clients poll without a pause.
Figures:

- `restarts.kills`: launchers killed; `restarts.survivors`: processes left a second later.
- `restarts.folders`: run folders left after one more start, which removes those of dead launchers.
- `restarts.restarts`: starts under pollers; `restarts.refused`: those that did not serve.
- `restarts.polls`: answers that the pollers got.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from random import Random

import aiohttp

from benchmark.figures import publish
from benchmark.server.server import ENVIRONMENT, ServerFailed, launcher_command
from benchmark.server.watched_server import running

MAX_MOMENT_SECONDS = 6.0
"""Latest moment of a kill, after the start."""
GRACE_SECONDS = 1.0
POLLERS = 3
MARK = "BENCHMARK_RUN"
"""Environment variable by which the processes of one launcher are found."""
RUN_FOLDERS = "tgi-laps-*"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `restarts`."""
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--kills", type=int, default=50, help="launchers to kill")
    parser.add_argument("--restarts", type=int, default=100, help="starts under pollers")
    parser.add_argument("--seed", type=int, default=1, help="seed of the moments")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write the figures. Return 1 if a process or a start was lost, else 0."""
    random = Random(args.seed)  # noqa: S311 - no secret is drawn
    with tempfile.TemporaryDirectory() as folder:
        environment = {**ENVIRONMENT, "TMPDIR": folder}
        figures = _kill_all(args.kills, random, environment)
        figures |= asyncio.run(_restart_all(args.restarts, environment))
        figures["restarts.folders"] = len(list(Path(folder).glob(RUN_FOLDERS)))
    publish(figures, args.json, decimals=0)
    lost = ("restarts.survivors", "restarts.folders", "restarts.refused")
    return 1 if any(figures[name] for name in lost) else 0


def _kill_all(kills: int, random: Random, environment: Mapping[str, str]) -> dict[str, float]:
    survivors = sum(
        _survivors(random.uniform(0, MAX_MOMENT_SECONDS), environment) for _ in range(kills)
    )
    return {"restarts.kills": kills, "restarts.survivors": survivors}


def _survivors(moment: float, environment: Mapping[str, str]) -> int:
    """Kill a launcher `moment` seconds after its start; how many processes are left."""
    mark = uuid.uuid4().hex
    process = subprocess.Popen(  # noqa: S603
        launcher_command("--echo"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**environment, MARK: mark},
    )
    with suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    process.kill()
    process.wait()
    time.sleep(GRACE_SECONDS)
    return len(marked_processes(mark))


def marked_processes(mark: str) -> list[int]:
    """Ids of the processes whose environment has `mark`, other than this one."""
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _has(pid, mark)]


def _has(pid: int, mark: str) -> bool:
    try:
        return f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # it has ended, or belongs to another user


async def _restart_all(restarts: int, environment: Mapping[str, str]) -> dict[str, float]:
    """Start a server again and again on one port while it is polled."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    polls, refused = [0], 0
    pollers = [asyncio.ensure_future(_poll(port, polls)) for _ in range(POLLERS)]
    for _ in range(restarts):
        try:
            async with running(("--echo", "--port", str(port)), environment):
                answered = polls[0]
                while polls[0] == answered:  # noqa: ASYNC110  another process has no event
                    await asyncio.sleep(0.01)
        except ServerFailed:
            refused += 1
    for poller in pollers:
        poller.cancel()
    await asyncio.wait(pollers)
    return {
        "restarts.restarts": restarts,
        "restarts.refused": refused,
        "restarts.polls": polls[0],
    }


async def _poll(port: int, polls: list[int]) -> None:
    """Ask for the health of the server without a pause; count the answers in `polls`."""
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as opened:
        while True:
            with suppress(aiohttp.ClientError):
                async with opened.get("/health", headers={"Connection": "close"}) as response:
                    polls[0] += response.status == 200
            await asyncio.sleep(0.001)
