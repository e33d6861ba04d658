"""Reconnecting to shards: what is reported and waited for, and which ranks may take over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from router.dispatch.recovery import (
    EQUAL_FIELDS,
    MINIMUM_FIELDS,
    Connect,
    keep_connected,
    require_successor,
)
from router.shards.group import ShardGroup, ShardGroupFailed
from shard.wire.protocol import Ready
from tests.support.scripted_ranks import ScriptedRank, connected_group, listening, ready_message


@dataclass
class Resumed:
    """The dispatcher's part, and what was reported to the launcher."""

    groups: asyncio.Queue[ShardGroup] = field(default_factory=asyncio.Queue)
    reports: asyncio.Queue[tuple[int, str]] = field(default_factory=asyncio.Queue)
    started: asyncio.Queue[int] = field(default_factory=asyncio.Queue)

    async def resume(self, shards: ShardGroup) -> None:
        self.groups.put_nowait(shards)

    def report(self, generation: int, text: str) -> None:
        self.reports.put_nowait((generation, text))


@asynccontextmanager
async def recovering(first: ShardGroup, connect: Connect) -> AsyncIterator[Resumed]:
    """Keep a dispatcher connected, with `first` at first."""
    seen = Resumed()
    running = asyncio.ensure_future(
        keep_connected(first, 1, connect, seen, seen.report, seen.started)
    )
    try:
        yield seen
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def test_each_failure_is_reported_and_the_next_generation_is_connected_to() -> None:
    rank, second, third = ScriptedRank(0), ScriptedRank(0), ScriptedRank(0)
    async with listening(second) as paths, listening(third) as last_paths:
        upcoming = iter((paths, last_paths))
        async with (
            connected_group(rank) as (first, _),
            recovering(first, lambda: ShardGroup.connect(next(upcoming))) as seen,
        ):
            rank.disconnect()
            assert await seen.reports.get() == (1, "rank 0: the connection was closed")
            assert seen.groups.empty(), "nothing is known to have started"
            seen.started.put_nowait(2)
            await seen.groups.get()
            second.disconnect()
            assert await seen.reports.get() == (2, "rank 0: the connection was closed")
            seen.started.put_nowait(3)
            await seen.groups.get()
            assert seen.reports.empty()


async def test_news_of_a_generation_that_has_failed_already_is_ignored() -> None:
    rank, second = ScriptedRank(0), ScriptedRank(0)
    async with (
        listening(second) as paths,
        connected_group(rank) as (first, _),
        recovering(first, lambda: ShardGroup.connect(paths)) as seen,
    ):
        for number in (1, 1, 4):
            seen.started.put_nowait(number)
        rank.disconnect()
        await seen.groups.get()
        second.disconnect()
        await seen.reports.get()
        assert (await seen.reports.get())[0] == 4


async def test_a_group_that_cannot_be_connected_to_is_reported_too() -> None:
    rank, second = ScriptedRank(0), ScriptedRank(0)
    async with listening(second) as paths:
        upcoming = iter((["/nowhere/0.sock"], paths))
        async with (
            connected_group(rank) as (first, _),
            recovering(first, lambda: ShardGroup.connect(next(upcoming))) as seen,
        ):
            rank.disconnect()
            await seen.reports.get()
            seen.started.put_nowait(2)
            generation, text = await seen.reports.get()
            assert generation == 2
            assert text.startswith("cannot connect to the shards")
            seen.started.put_nowait(3)
            await seen.groups.get()


async def test_ranks_that_serve_something_else_do_not_take_over() -> None:
    class Changed(ScriptedRank):
        def greet(self, hello: object) -> None:
            self.send(replace(ready_message(0), vocab_size=301))

    rank, second = ScriptedRank(0), Changed(0)
    async with (
        listening(second) as paths,
        connected_group(rank) as (first, _),
        recovering(first, lambda: ShardGroup.connect(paths)) as seen,
    ):
        rank.disconnect()
        await seen.reports.get()
        seen.started.put_nowait(2)
        text = "rank 0 came back with vocab_size 301 instead of 300"
        assert await seen.reports.get() == (2, text)
        assert seen.groups.empty()


def ranks(**changes: Any) -> list[Ready]:
    return [ready_message(0), replace(ready_message(1), **changes)]


@pytest.mark.parametrize("name", EQUAL_FIELDS)
def test_what_a_rank_serves_must_be_the_same(name: str) -> None:
    value = getattr(ready_message(1), name)
    other = value + 1 if isinstance(value, int) else f"other {value}"
    with pytest.raises(ShardGroupFailed, match=f"rank 1 came back with {name} "):
        require_successor(ranks(), ranks(**{name: other}))


@pytest.mark.parametrize("name", MINIMUM_FIELDS)
def test_what_a_rank_can_hold_must_not_be_less_than_all_had_together(name: str) -> None:
    least = getattr(ready_message(0), name)
    require_successor(ranks(), ranks(**{name: least + 1}))
    require_successor(ranks(**{name: least + 5}), ranks())
    with pytest.raises(ShardGroupFailed, match=f"{name} {least - 1} instead of {least}"):
        require_successor(ranks(), ranks(**{name: least - 1}))


def test_measured_costs_may_differ() -> None:
    require_successor(ranks(), ranks(verify_seconds=9.0, prefill_token_seconds=1.0))
