"""The life of one server: start the ranks, then the router, serve, and drain on request.

A rank that fails before the router is ready ends the start. After that the ranks are started again
by `rank_group`, also while the server drains, and the router keeps serving. What "ready" is
announced with, and how the children are made, is for the launcher to decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

from shard.errors import StartupError
from shard.launch.child import Child, ChildCommand
from shard.launch.rank_group import RankGroup
from shard.launch.supervisor import ChildEvent, ChildLog, StopRequested, Supervisor

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
    """Start `group`, then `router`, call `on_ready`, and serve until a signal arrives.

    Live requests then have `grace_seconds` to finish. Raises StopRequested for a signal before the
    server is ready, and StartupError if a child cannot be started, the router fails, the ranks fail
    too often or a second signal arrives.
    """
    await wait_until_ready(group.start(), children, log)
    server = children.start(router)
    ready = await wait_for("ready", server, group, children)
    on_ready()
    restarts = group.keep_running(server, ready.data.get("shard_limits", {}))
    try:
        await wait_for("ended", server, group, children)
    except StopRequested:
        log("Draining: live requests may finish", event="draining", seconds=grace_seconds)
        await drain(server, grace_seconds, group, log, children)
    finally:
        restarts.cancel()


async def wait_for(event: str, router: Child, group: RankGroup, children: Supervisor) -> ChildEvent:
    """Wait for the next `event` of the router; the group gets what concerns the ranks."""
    while True:
        next_event = await children.next_event()
        group.on_event(next_event)
        if next_event.event == event and next_event.child is router:
            return next_event


async def wait_until_ready(ranks: Sequence[Child], children: Supervisor, log: ChildLog) -> None:
    """Wait until every rank is ready, and log that this goes on every `REMINDER_SECONDS`."""
    start = monotonic()
    reminder = children.tasks.create_task(_remind(log))
    try:
        async for event in children.wait_each("ready", ranks):
            seconds = monotonic() - start
            log(f"Shard ready in {seconds:.1f}s", event="ready", rank=ranks.index(event.child))
    finally:
        reminder.cancel()


async def _remind(log: ChildLog) -> None:
    while True:
        await asyncio.sleep(REMINDER_SECONDS)
        log("Waiting for shard to be ready...", event="waiting")


async def drain(
    router: Child, grace_seconds: float, group: RankGroup, log: ChildLog, children: Supervisor
) -> None:
    """Let live requests finish for `grace_seconds`. Raises StartupError(1) at a second signal."""
    router.terminate()
    try:
        async with asyncio.timeout(grace_seconds):
            await wait_for("ended", router, group, children)
    except TimeoutError:
        log(f"Requests still live after {grace_seconds} s are cancelled", event="cancelled")
    except StopRequested:
        raise StartupError(1, "Aborted: a second signal arrived during draining") from None
