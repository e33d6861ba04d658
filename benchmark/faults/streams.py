"""Streams of a server, read token by token, and whether two answers are the same.

Rule: decides how an answer is read and compared; must not know what happened meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

STREAM_TIMEOUT_SECONDS = 300.0
"""Time limit of one answer."""
LOGPROB_TOLERANCE = 1e-3
"""Relative difference of log-probabilities that the size of a batch may cause in float32."""

Answers = list[list[dict[str, Any]]]
"""The events of each stream."""


@dataclass
class Progress:
    """What all streams of a run have received so far."""

    tokens: int = 0
    arrivals: list[float] = field(default_factory=list)
    """When each token arrived, in monotonic seconds."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def on_token(self) -> None:
        """Count a token."""
        self.tokens += 1
        self.arrivals.append(time.monotonic())
        self._changed.set()

    async def reach(self, tokens: int) -> None:
        """Wait until there are `tokens` tokens."""
        while self.tokens < tokens:
            self._changed.clear()
            await self._changed.wait()


async def stream_all(url: str, bodies: Sequence[Mapping[str, Any]], progress: Progress) -> Answers:
    """Send all `bodies` at once, and return the events of each stream."""
    timeout = aiohttp.ClientTimeout(total=STREAM_TIMEOUT_SECONDS)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, timeout=timeout, connector=connector) as session:
        return await asyncio.gather(*(_stream(session, body, progress) for body in bodies))


@asynccontextmanager
async def streaming(
    url: str, bodies: Sequence[Mapping[str, Any]], progress: Progress
) -> AsyncIterator[asyncio.Task[Answers]]:
    """`stream_all` as a task, which ends with the `async with`."""
    task = asyncio.create_task(stream_all(url, bodies, progress))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _stream(
    session: aiohttp.ClientSession, body: Mapping[str, Any], progress: Progress
) -> list[dict[str, Any]]:
    return [event async for event in _events(session, body, progress)]


async def _events(
    session: aiohttp.ClientSession, body: Mapping[str, Any], progress: Progress
) -> AsyncIterator[dict[str, Any]]:
    async with session.post("/generate_stream", json=body) as response:
        async for line in response.content:
            if line.startswith(b"data:"):
                yield json.loads(line[5:])
                progress.on_token()


def is_same_answer(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> bool:
    """Whether two streams have equal tokens, texts and ends, and log-probabilities that agree."""
    return len(one) == len(other) and all(map(_is_same_event, one, other))


def _is_same_event(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if "token" not in one or "token" not in other:
        return False
    return _exact_part(one) == _exact_part(other) and _logprobs_agree(one["token"], other["token"])


def _exact_part(event: Mapping[str, Any]) -> tuple[object, ...]:
    token, details = event["token"], event["details"] or {}
    end = tuple(details.get(name) for name in ("finish_reason", "generated_tokens", "seed"))
    return (
        event["index"],
        token["id"],
        token["text"],
        token["special"],
        event["generated_text"],
        end,
    )


def _logprobs_agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    first, second = float(one["logprob"]), float(other["logprob"])
    return abs(first - second) <= LOGPROB_TOLERANCE * max(1.0, abs(first))
