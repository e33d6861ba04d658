"""The router's parts over virtual ranks: how a simulated server is configured and built.

Rule: draws a configuration and connects what is shipped: dispatcher, scheduler, recovery and shard
group. Only the ranks, the network, the launcher and the clock are simulated. What clients do and
what must hold afterwards is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from random import Random

from tokenizers import AddedToken, models
from tokenizers import Tokenizer as HfTokenizer

from benchmark.faults.virtual.faults import HEALTHY, Fate, draw_fate
from benchmark.faults.virtual.launcher import VirtualLauncher
from benchmark.faults.virtual.network import VirtualNetwork
from benchmark.faults.virtual.rank import VirtualRank
from benchmark.faults.virtual.requests import MAX_NEW, MAX_PROMPT, VOCABULARY, word
from router.capacity import combined_capacity
from router.config import Limits
from router.dispatch.dispatcher import Dispatcher
from router.dispatch.recovery import keep_connected
from router.observability.metrics import Metrics
from router.requests.request import resolve_limits
from router.scheduler import build
from router.scheduler.api import DeviceCapacity, Scheduler
from router.scheduler.config import SchedulerConfig
from router.scheduler.policies import POLICIES
from router.shards.group import ShardGroup
from router.text.tokenizer import Tokenizer
from shard.config import ShardConfig

EVENTS_BEFORE_SERVING = 2
"""Loading and Hello. A rank of the first generation gets as far, else there is no server."""
MAX_TOKENS = MAX_PROMPT + MAX_NEW
"""Maximum length of a row."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The configuration of a simulated server."""

    shard: ShardConfig
    """Of rank 0."""
    policy: str
    permits: int
    preemption: str
    step_timeout: float | None
    clients: int
    max_unread_tokens: int
    faulty: bool
    """Whether ranks have faults."""


def draw_settings(random: Random) -> Settings:
    """A small server, so that requests wait, share and are preempted."""
    shard = ShardConfig(
        model_path="",
        model_id="echo",
        draft_path=None,
        rank=0,
        world=random.choice((1, 1, 2, 3)),
        socket="",
        rendezvous="",
        speculate=random.choice((0, 3, 5)),
        dtype=None,
        max_rows=random.choice((2, 8, 8, 16)),
        max_total_tokens=MAX_TOKENS,
        max_batch_total_tokens=random.choice((1, 2, 4, 8)) * (MAX_TOKENS + 30),
        max_swap_tokens=random.choice((0, 64, 512, 4096)),
        echo=True,
    )
    clients = random.choice((1, 4, 16, 32))
    return Settings(
        shard=shard,
        policy=random.choice(("laps-sd", *POLICIES)),
        permits=random.choice((clients, clients, max(2, clients // 2))),
        preemption=random.choice(("auto", "auto", "swap", "recompute")),
        step_timeout=random.choice((None, None, 5.0)),
        clients=clients,
        max_unread_tokens=random.choice((1, 2, 6, 1000)),
        faulty=random.random() < 0.9,
    )


@dataclass(frozen=True, slots=True)
class World:
    """A simulated server that runs."""

    dispatcher: Dispatcher
    scheduler: Scheduler
    capacity: DeviceCapacity
    launcher: VirtualLauncher
    gave_up: asyncio.Event
    """Set once the launcher starts the ranks no more."""


@asynccontextmanager
async def running(
    settings: Settings, random: Random, network: VirtualNetwork, violate: Callable[[str], None]
) -> AsyncIterator[World]:
    """A server with `settings` that serves. `violate` gets each rule that the router breaks."""
    paths = [f"rank-{rank}" for rank in range(settings.shard.world)]

    def create(generation: int) -> Sequence[VirtualRank]:
        return [
            VirtualRank(
                replace(settings.shard, rank=rank, socket=path),
                _fate(random, generation, settings.faulty),
                network,
                random,
            )
            for rank, path in enumerate(paths)
        ]

    launcher = VirtualLauncher(create, violate)
    await launcher.start()
    connect = partial(ShardGroup.connect, paths, step_timeout=settings.step_timeout)
    async with connect() as shards:
        world = _build(settings, shards, launcher)
        serving = asyncio.ensure_future(world.dispatcher.run())
        others = [
            asyncio.ensure_future(_supervise(world, serving)),
            asyncio.ensure_future(
                keep_connected(
                    shards, 1, connect, world.dispatcher, launcher.report, launcher.started
                )
            ),
        ]
        try:
            yield world
        finally:
            for task in (*others, serving):
                await _end(task)


async def _supervise(world: World, serving: asyncio.Task[None]) -> None:
    """Restart ranks; the router ends once the launcher gives up."""
    await world.launcher.keep_running()
    world.gave_up.set()
    serving.cancel()


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task; raise what it has raised."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _fate(random: Random, generation: int, faulty: bool) -> Fate:
    fate = draw_fate(random) if faulty else HEALTHY
    return replace(fate, event=fate.event + EVENTS_BEFORE_SERVING) if generation == 1 else fate


def _build(settings: Settings, shards: ShardGroup, launcher: VirtualLauncher) -> World:
    ranks = shards.ready_messages
    limits = Limits(max_concurrent_requests=settings.permits)
    bounds = resolve_limits(limits, min(ready.max_length for ready in ranks))
    capacity = combined_capacity(ranks, bounds, settings.preemption)
    scheduler = build(SchedulerConfig(scheduler=settings.policy), capacity)
    dispatcher = Dispatcher(
        scheduler,
        shards,
        tokenizer(),
        settings.permits,
        Metrics(bounds, capacity),
        clock=asyncio.get_running_loop().time,
        max_unread_tokens=settings.max_unread_tokens,
    )
    return World(dispatcher, scheduler, capacity, launcher, asyncio.Event())


@cache
def tokenizer() -> Tokenizer:
    """A word for each token; the first is special."""
    vocabulary = {word(token): token for token in range(VOCABULARY)}
    backend = HfTokenizer(models.WordLevel(vocabulary, unk_token=word(1)))
    backend.add_special_tokens([AddedToken(word(0), special=True)])
    return Tokenizer(backend)
