"""Requests whose latency and status are noted, sent at once, in turns or at random times.

Rule: decides how a request is sent and what is noted of it; must not know what is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import aiohttp

REQUEST_TIMEOUT_SECONDS = 300.0
PROBE_SECONDS = 0.01
"""Pause between two questions about the server's health."""
NO_ANSWER = 0
"""Status of a request that was not answered in that time."""


@dataclass(frozen=True, slots=True)
class TimedResponse:
    """The end of one request. Times in monotonic seconds."""

    status: int
    sent: float
    ended: float

    @property
    def seconds(self) -> float:
        """From sending it to the last byte of its answer."""
        return self.ended - self.sent


Send = Callable[[], Awaitable[TimedResponse]]


def after(seconds: float) -> Callable[[], bool]:
    """Whether `seconds` have passed since this call."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


@asynccontextmanager
async def session(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A session without a limit of connections."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, timeout=timeout, connector=connector) as opened:
        yield opened


async def post(opened: aiohttp.ClientSession, body: Mapping[str, Any]) -> TimedResponse:
    """Send `body` to /generate and read the answer."""
    sent, status = time.monotonic(), NO_ANSWER
    try:
        async with opened.post("/generate", json=body) as response:
            await response.read()
            status = response.status
    except TimeoutError:
        pass
    return TimedResponse(status, sent, time.monotonic())


async def probe_health(opened: aiohttp.ClientSession, ended: Callable[[], bool]) -> list[float]:
    """Seconds that each answer about the server's health took, asked for until `ended`."""
    seconds = []
    while not ended():
        for path in ("/health", "/health/ready"):
            sent = time.monotonic()
            async with opened.get(path) as response:
                await response.read()
                response.raise_for_status()
            seconds.append(time.monotonic() - sent)
            await asyncio.sleep(PROBE_SECONDS)
    return seconds


async def send_in_turns(send: Send, clients: int, ended: Callable[[], bool]) -> list[TimedResponse]:
    """`clients` of which each sends a request when its last one has ended, until `ended`."""

    async def client() -> list[TimedResponse]:
        outcomes = []
        while not ended():
            outcomes.append(await send())
        return outcomes

    done = await asyncio.gather(*(client() for _ in range(clients)))
    return [outcome for outcomes in done for outcome in outcomes]


async def send_at_random(
    send: Send, per_second: float, seconds: float, random: Random
) -> list[TimedResponse]:
    """Requests as a Poisson process for `seconds`, however long their answers take."""
    due = time.monotonic()
    end, tasks = due + seconds, list[asyncio.Future[TimedResponse]]()
    while (due := due + random.expovariate(per_second)) < end:
        await asyncio.sleep(due - time.monotonic())
        tasks.append(asyncio.ensure_future(send()))
    return await asyncio.gather(*tasks)


def per_second(outcomes: Sequence[TimedResponse], start: float, end: float) -> float:
    """Answers with status 200 per second that ended from `start` to `end`."""
    good = [each for each in outcomes if each.status == 200 and start <= each.ended < end]
    return len(good) / (end - start)


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of 100 values do not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] if ordered else 0.0
