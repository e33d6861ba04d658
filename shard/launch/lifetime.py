"""The life of the launcher's event loop: signals in, one piece of work, and no child left behind.

What the work is, and what is done about its failure, is for the caller to decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from shard.errors import StartupError
from shard.launch import signals
from shard.launch.supervisor import ChildLog, StopRequested, Supervisor


async def run(work: Callable[[Supervisor], Awaitable[None]], log: ChildLog) -> None:
    """Await `work` with a supervisor, then end all children. Raises StartupError."""
    failure = None
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        children = Supervisor(tasks, log)
        for name in signals.STOP_SIGNALS:
            loop.add_signal_handler(name, children.on_signal)
        with signals.delivered():
            try:
                await work(children)
            except StopRequested:
                log("Stopped before the server was ready")
            except StartupError as error:  # the task group would wrap it in an ExceptionGroup
                failure = error
            finally:
                await children.shutdown()
    if failure:
        raise failure
