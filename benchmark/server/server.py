"""A real server of the demo pair, and a client that sends requests at set times.

Rule: decides how the server is started and called; must not know what the answers are for. The
server is the real launcher with one router and one shard, called over HTTP on loopback. It starts
without learned state, and every request has its own cache salt, so no run benefits from another.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

LAUNCHER = Path(__file__).resolve().parents[2] / "launcher.py"
MAX_NEW = 512
TIMEOUT_SECONDS = 120.0
"""Time limit of one run, of a start and of an end, in seconds."""
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
"""Of a launcher: its shards compute in one thread."""


class ServerFailed(RuntimeError):
    """The server did not start, did not answer, or did not do in time what it should."""


@dataclass(frozen=True, slots=True)
class ClientRequest:
    """One request of a run."""

    text: str
    due: float
    """Seconds after the start of the run."""
    expected: int | None = None
    """The client's estimate of the answer's length, in tokens."""


@dataclass(frozen=True, slots=True)
class ClientResponse:
    """The answer to one request."""

    prompt_tokens: int
    """Token ids of the answer."""
    ids: tuple[int, ...]
    latency: float
    """Seconds from the time it was due to the last byte."""
    details: dict[str, Any]


def launcher_command(*flags: str) -> tuple[str, ...]:
    """The command of a server on loopback that logs JSON and has learned nothing before."""
    always = ("--hostname", "127.0.0.1", "--port", "0", "--json-output", "true")
    return (sys.executable, str(LAUNCHER), *always, "--scheduler-state", "none", *flags)


@contextmanager
def serving(*flags: str) -> Iterator[str]:
    """The address of a server with `flags`. Raises ServerFailed."""
    process = subprocess.Popen(  # noqa: S603
        launcher_command(*flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=ENVIRONMENT,
    )
    try:
        yield _address(process)
    finally:
        process.terminate()
        try:
            process.communicate(timeout=TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def send_all(url: str, requests: Sequence[ClientRequest]) -> list[ClientResponse]:
    """Send each request when it is due. Return the answers in the order of `requests`.

    Raises ServerFailed.
    """
    return asyncio.run(_send_all(url, requests))


def _address(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout  # noqa: S101  narrows the type
    lines = []
    for line in process.stdout:
        lines.append(line.decode())
        if '"connected"' in lines[-1]:
            url: str = json.loads(line)["url"]
            return url
    raise ServerFailed("the server did not start:\n" + "".join(lines[-20:]))


async def _send_all(url: str, requests: Sequence[ClientRequest]) -> list[ClientResponse]:
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(url, timeout=timeout) as session:
        await _send(session, ClientRequest("warm up", 0.0), "warm up", time.monotonic())
        start = time.monotonic() + 0.1
        calls = (
            _send(session, request, f"{place}", start) for place, request in enumerate(requests)
        )
        return await asyncio.gather(*calls)


async def _send(
    session: aiohttp.ClientSession, request: ClientRequest, salt: str, start: float
) -> ClientResponse:
    due = start + request.due
    await asyncio.sleep(due - time.monotonic())
    async with session.post("/generate", json=_body(request, salt)) as response:
        body = await response.json()
        if response.status != 200:
            raise ServerFailed(body["error"])
    details = body["details"]
    return ClientResponse(
        prompt_tokens=int(response.headers["x-prompt-tokens"]),
        ids=tuple(token["id"] for token in details.pop("tokens")),
        latency=time.monotonic() - due,
        details=details,
    )


def _body(request: ClientRequest, salt: str) -> dict[str, Any]:
    parameters = {
        "max_new_tokens": MAX_NEW,
        "details": True,
        "expected_new_tokens": request.expected,
        "cache_salt": salt,
    }
    return {"inputs": request.text, "parameters": parameters}
