"""Two replicas under Ray Serve: streams, and what the death of one does to the others' requests.

Run by `make test-ray`, in an environment with Ray.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator

import aiohttp
import pytest

from benchmark.fleet.ray_cluster import serving
from tests.support.ray_replicas import launchers

TOKENS, STREAMS = 60, 6
LIMIT_SECONDS = 120.0
REPORTED_SECONDS = 2.0
"""Until both replicas have reported that they are idle, so that each gets requests."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(extra=f"--max-batch-size {STREAMS}") as address:
        yield address


async def stream(session: aiohttp.ClientSession, seed: int, started: asyncio.Event) -> list[str]:
    """The texts of the events of one answer. Raises ClientError if it is cut."""
    parameters = {"max_new_tokens": TOKENS, "ignore_eos": True, "seed": seed}
    body = {"inputs": f"Say it again and again {seed}", "parameters": parameters}
    events = []
    async with session.post("/generate_stream", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data:"):
                events.append(json.loads(line[5:])["token"]["text"])
                started.set()
    return events


async def streams(url: str, killed: int | None = None) -> list[list[str] | BaseException]:
    """Several answers at once; a process may be killed once all have their first token."""
    started = [asyncio.Event() for _ in range(STREAMS)]
    async with aiohttp.ClientSession(url) as session, asyncio.timeout(LIMIT_SECONDS):
        tasks = [
            asyncio.ensure_future(stream(session, seed, event))
            for seed, event in enumerate(started)
        ]
        if killed is not None:
            await asyncio.gather(*(event.wait() for event in started))
            os.kill(killed, signal.SIGKILL)
        return await asyncio.gather(*tasks, return_exceptions=True)


def test_the_death_of_a_replica_harms_only_its_own_requests(url: str) -> None:
    before = asyncio.run(streams(url))
    assert all(isinstance(texts, list) and len(texts) == TOKENS for texts in before)
    victims = launchers()
    assert len(victims) == 2
    launcher, replica = next(iter(victims.items()))

    time.sleep(REPORTED_SECONDS)
    during = asyncio.run(streams(url, killed=replica))
    whole = [texts == expected for texts, expected in zip(during, before, strict=True)]
    assert any(whole), during
    assert not all(whole)
    cut = [texts for texts, same in zip(during, whole, strict=True) if not same]
    assert all(isinstance(error, aiohttp.ClientError) for error in cut)

    after = asyncio.run(streams(url))
    assert after == before
    assert launcher not in launchers()


def test_every_route_is_passed_on_with_its_query_and_status(url: str) -> None:
    async def statuses() -> tuple[int, str, int]:
        async with aiohttp.ClientSession(url) as session:
            async with session.get("/v1/models?limit=1") as models:
                found = models.status, (await models.json())["object"]
            async with session.post("/generate", json={"inputs": ""}) as refused:
                return (*found, refused.status)

    assert asyncio.run(statuses()) == (200, "list", 422)
