"""Ranks that are started again and do not become ready are replaced, like those that fail."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from random import Random
from typing import Any

from benchmark.faults.virtual.event_loop import VirtualLoop
from benchmark.faults.virtual.network import VirtualNetwork
from shard.launch.child import ChildCommand
from shard.launch.rank_group import RankGroup
from shard.launch.restart_policy import load_timeout
from shard.launch.supervisor import ChildEvent


class Rank:
    """A child that does nothing."""

    is_restarted = False


class Children:
    """Stands in for the supervisor: its children are ready only when a test says so."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.tasks = tasks
        self.started = list[Any]()
        self.killed = list[Any]()
        self.changed = asyncio.Event()

    def start(self, _: ChildCommand) -> Any:
        self.started.append(Rank())
        self.changed.set()
        return self.started[-1]

    async def kill(self, children: Collection[Any]) -> None:
        self.killed += children

    async def until_started(self, count: int) -> None:
        while len(self.started) < count:
            self.changed.clear()
            await self.changed.wait()


async def replace_a_rank_that_hangs() -> None:
    loop, restarted, lines = asyncio.get_running_loop(), list[int](), list[str]()
    async with asyncio.TaskGroup() as tasks:
        children: Any = Children(tasks)

        log: Any = lambda text, **_: lines.append(text)  # noqa: E731
        group = RankGroup([ChildCommand("rank 0", (), {})], children, log, lambda: None)
        group.start()
        group.mark_ready()
        keeping = group.keep_running({}, restarted.append)
        group.report("it hangs")
        children.first_exit = lambda *_: asyncio.sleep(0)
        await children.until_started(2)
        started = loop.time()
        await children.until_started(3)
        assert loop.time() - started >= load_timeout(0.0)
        assert children.killed == children.started[:2]
        assert "ShardFailed: a rank was not ready after 120 s" in lines[-1]
        group.on_event(ChildEvent(children.started[2], "ready", {}))
        await asyncio.sleep(1)
        keeping.cancel()
    assert restarted == [3]


def test_a_rank_that_hangs_while_it_loads_again_is_replaced() -> None:
    loop = VirtualLoop(VirtualNetwork(Random(1)))
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(replace_a_rank_that_hangs())


def test_ranks_may_take_ten_times_as_long_as_the_last_time() -> None:
    assert load_timeout(60.0) == 600.0
