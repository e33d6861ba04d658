"""The life of one server: start the ranks, then the router, serve, and drain on request.

What "ready" is announced with, and how the children are made, is for the launcher to decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

from shard.errors import StartupError
from shard.launch.child import Child, ChildCommand
from shard.launch.supervisor import ChildLog, StopRequested, Supervisor

REMINDER_SECONDS = 10.0
"""Seconds between two log lines while the ranks load."""


async def serve(
    shards: Sequence[ChildCommand],
    router: ChildCommand,
    on_ready: Callable[[], None],
    grace_seconds: float,
    log: ChildLog,
    children: Supervisor,
) -> None:
    """Start `shards`, then `router`, call `on_ready`, and serve until a signal arrives.

    Live requests then have `grace_seconds` to finish. Raises StopRequested for a signal before the
    server is ready, and StartupError if a child fails or a second signal arrives.
    """
    ranks = [children.start(shard) for shard in shards]
    await wait_until_ready(ranks, children, log)
    server = children.start(router)
    await children.wait_for("ready", server)
    on_ready()
    try:
        await children.wait_for("ended", server)
    except StopRequested:
        log("Draining: live requests may finish", event="draining", seconds=grace_seconds)
    await drain(server, grace_seconds, log, children)


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


async def drain(router: Child, grace_seconds: float, log: ChildLog, children: Supervisor) -> None:
    """Let live requests finish for `grace_seconds`. Raises StartupError(1) at a second signal."""
    router.terminate()
    try:
        async with asyncio.timeout(grace_seconds):
            await children.wait_for("ended", router)
    except TimeoutError:
        log(f"Requests still live after {grace_seconds} s are cancelled", event="cancelled")
    except StopRequested:
        raise StartupError(1, "Aborted: a second signal arrived during draining") from None
