"""One simulated run, and what must hold in it and after it.

Rule: decides what counts as a violation. Every request ends once and in a way that its client's
plan and the ranks' faults allow; a client that stays gets exactly the right tokens; afterwards no
row, page or permit is held. A run is a function of its seed, so a seed is all that a report
needs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from benchmark.faults.virtual.clients import (
    BLAMED,
    CANCELLED,
    COMPLETE,
    FAILED,
    LEFT,
    LOST,
    REFUSED,
    Client,
    Ended,
)
from benchmark.faults.virtual.event_loop import Deadlock, VirtualLoop
from benchmark.faults.virtual.network import VirtualNetwork
from benchmark.faults.virtual.requests import (
    DEADLY_GRAMMAR,
    HANGING_GRAMMAR,
    draw_prefixes,
    draw_request,
    word,
)
from benchmark.faults.virtual.world import Settings, World, draw_settings, running
from router.dispatch.quarantine import MAX_RESTARTS
from router.requests.record import LiveRequest
from shard.echo.replies import EOS, reply_logprob

EPISODE_SECONDS = 3600.0
"""Maximum virtual time of a run."""
SETTLING_SECONDS = 120.0
"""Maximum virtual time from the last end until nothing is held."""
POLL_SECONDS = 0.05
POISON_SHARE = 0.1
"""Probability that one request of an episode has a grammar that no rank survives."""


@dataclass
class Episode:
    """What a run has shown."""

    seed: int
    violations: list[str] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    """Failures of the shards."""
    gave_up: bool = False
    """Whether the shards failed too often, so that the server ended."""
    seconds: float = 0.0
    """Virtual time."""
    longest: float = 0.0
    """Longest virtual time of a request, in seconds."""
    checksum: int = 0
    """Of everything that was sent between router and ranks."""


def run_episode(seed: int, requests: int) -> Episode:
    """Simulate a server with `requests` requests. Equal arguments give equal episodes."""
    random = Random(seed)  # noqa: S311  no secret is drawn
    network, episode = VirtualNetwork(random), Episode(seed)
    loop = VirtualLoop(network)
    started = loop.time()
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(_simulate(random, network, requests, episode))
    except Deadlock:
        episode.violations.append("deadlock: nothing would ever have happened again")
    except TimeoutError:
        episode.violations.append(f"not every request has ended in {EPISODE_SECONDS:g} s")
    episode.seconds, episode.checksum = loop.time() - started, network.checksum
    return episode


async def _simulate(
    random: Random, network: VirtualNetwork, requests: int, episode: Episode
) -> None:
    settings = draw_settings(random)
    async with (
        asyncio.timeout(EPISODE_SECONDS),
        running(settings, random, network, episode.violations.append) as world,
    ):
        ends = await _serve(world, settings, random, requests)
        if not world.gave_up.is_set():
            await _settle(world)
        episode.gave_up = world.gave_up.is_set()
        episode.failures = world.launcher.failures
        episode.violations += [] if episode.gave_up else held(world)
        episode.violations += await _held_permits(world)
    episode.ends.update(ended.how for ended in ends)
    episode.longest = max((e.record.ended - e.record.arrived for e in ends if e.record), default=0)
    for ended in ends:
        episode.violations += wrong(ended, episode.gave_up, episode.failures)


async def _serve(world: World, settings: Settings, random: Random, requests: int) -> list[Ended]:
    """Send all requests, from clients that each wait for an answer before they send the next."""
    client, prefixes = Client(world.dispatcher, world.capacity.page_size), draw_prefixes(random)
    ends: list[Ended] = []
    numbers = iter(range(1, requests + 1))
    poisonous = random.randrange(1, round(requests / POISON_SHARE) + 1)

    async def send_some() -> None:
        for number in numbers:
            planned = draw_request(random, f"request-{number}", prefixes)
            if number == poisonous:
                planned = planned.with_grammar(random.choice((DEADLY_GRAMMAR, HANGING_GRAMMAR)))
            ends.append(await client.send(planned, number))

    async with asyncio.TaskGroup() as group:
        for _ in range(settings.clients):
            group.create_task(send_some())
    return ends


async def _settle(world: World) -> None:
    """Wait until nothing is held, or the server has ended, or SETTLING_SECONDS have passed."""
    with suppress(TimeoutError):
        async with asyncio.timeout(SETTLING_SECONDS):
            while held(world) and not world.gave_up.is_set():  # noqa: ASYNC110  it has no event
                await asyncio.sleep(POLL_SECONDS)


async def _held_permits(world: World) -> list[str]:
    """Whether a permit is held although every client has its answer."""
    try:
        async with asyncio.timeout(POLL_SECONDS):
            await world.dispatcher.drain()
    except TimeoutError:
        return ["a permit is held"]
    return []


def held(world: World) -> list[str]:
    """What router and ranks hold although no request is live."""
    status, view = world.scheduler.status(), world.dispatcher.view
    reason = view.unhealthy_reason()
    facts = {
        f"{sum(status.waiting)} requests wait": any(status.waiting),
        f"{world.capacity.pages - status.free_pages} pages are not free": (
            status.free_pages != world.capacity.pages
        ),
        f"{view.live_count} requests are live": view.live_count > 0,
        f"the server is {reason}": reason is not None,
        "a rank holds rows": not all(rank.is_empty for rank in world.launcher.ranks),
    }
    return [text for text, holds in facts.items() if holds]


def wrong(ended: Ended, gave_up: bool, failures: int) -> Iterator[str]:
    """What is wrong with the end of one request."""
    planned, record, name = ended.planned, ended.record, ended.planned.id
    answer = planned.answer
    right = FAILED if answer.fault else COMPLETE
    allowed = {BLAMED if planned.is_poisonous else right, REFUSED}
    allowed |= {LEFT} if planned.leaves_after is not None else set()
    allowed |= {CANCELLED} if planned.cancelled_after is not None else set()
    allowed |= {FAILED, LOST} if gave_up else set()
    allowed |= {BLAMED} if failures > MAX_RESTARTS else set()
    if ended.how not in allowed:
        yield f"{name} ended as {ended.how}, which nothing explains"
    if record is None:
        return
    if record.is_live and ended.how != LEFT:
        yield f"{name} is live after its end"
    yield from _wrong_tokens(name, record, ended, answer.tokens)
    if ended.how == COMPLETE and record.finish_reason != answer.reason:
        yield f"{name} ended with {record.finish_reason} instead of {answer.reason}"
    if ended.how == COMPLETE and ended.tokens != answer.tokens:
        yield f"{name} has {len(ended.tokens)} tokens instead of {len(answer.tokens)}"


def _wrong_tokens(
    name: str, record: LiveRequest, ended: Ended, right: tuple[int, ...]
) -> Iterator[str]:
    ids = tuple(record.output_ids)
    if ended.tokens != ids[: len(ended.tokens)] or (ended.how != LEFT and ended.tokens != ids):
        yield f"{name} changed after its end"
    if ids != right[: len(ids)]:
        yield f"{name} has wrong tokens"
    first, seed = len(record.prompt), record.request.sampling.seed
    if any(t.logprob != reply_logprob(seed, first + i) for i, t in enumerate(record.tokens)):
        yield f"{name} has wrong log-probabilities"
    if record.text != "".join(f" {word(id)}" for id in ids if id != EOS):
        yield f"{name} has the wrong text {record.text!r}"
