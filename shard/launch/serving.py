"""The life of one server: start the ranks and the router, serve, and drain on request.

The router imports its modules while the ranks load, and gets its configuration when they are ready.
A child that fails before the router is ready ends the start. After that the ranks are started again
by `rank_group`, also while the server drains, and the router by `router_process`. What "ready" is
announced with, and how the children are made, is for the launcher to decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

from shard.launch.child import Child, ChildCommand
from shard.launch.rank_group import RankGroup
from shard.launch.router_process import RouterProcess
from shard.launch.supervisor import ChildLog, StopRequested, Supervisor

REMINDER_SECONDS = 10.0
"""Seconds between two log lines while the ranks load."""


async def serve(
    group: RankGroup,
    router: ChildCommand,
    on_ready: Callable[[], None],
    grace_seconds: float,
    log: ChildLog,
    children: Supervisor,
) -> None:
    """Start `group` and `router`, call `on_ready`, and serve until a signal arrives.

    Live requests then have `grace_seconds` to finish. Raises StopRequested for a signal before the
    server is ready, and StartupError if a child cannot be started, the ranks or the router fail too
    often, or a second signal arrives.
    """
    ranks = group.start()
    server = RouterProcess(router, group, children, log)
    await wait_until_ready(ranks, children, log)
    group.mark_ready()
    ready = await server.wait_ready()
    on_ready()
    limits = ready.data.get("shard_limits", {})
    restarts = group.keep_running(limits, server.on_shards_restarted)
    try:
        await server.keep_running()
    except StopRequested:
        log("Draining: live requests may finish", event="draining", seconds=grace_seconds)
        await server.drain(grace_seconds)
    finally:
        restarts.cancel()


async def wait_until_ready(ranks: Sequence[Child], children: Supervisor, log: ChildLog) -> None:
    """Wait until every rank is ready, and log that this goes on every `REMINDER_SECONDS`."""
    start = monotonic()
    reminder = children.tasks.create_task(_remind(log))
    try:
        async for event in children.wait_each("ready", ranks):
            seconds, rank = monotonic() - start, ranks.index(event.child)
            text = f"Shard ready in {seconds:.1f}s"
            log(text, event="ready", rank=rank, seconds=round(seconds, 3))
    finally:
        reminder.cancel()


async def _remind(log: ChildLog) -> None:
    while True:
        await asyncio.sleep(REMINDER_SECONDS)
        log("Waiting for shard to be ready...", event="waiting")
