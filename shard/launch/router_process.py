"""The router's process, which is started again when it has ended by itself.

Its requests are lost with it, since it alone holds them. The ranks keep their weights and forget
their rows, and the launcher keeps the listening socket, so that clients who connect meanwhile wait
in its backlog. How long to wait before a restart is for `restart_policy` to decide. The loop that
handles the events of all children while the server serves is here.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic

from shard.errors import StartupError
from shard.launch.child import Child, ChildCommand
from shard.launch.rank_group import RankGroup
from shard.launch.restart_policy import RestartHistory
from shard.launch.supervisor import ChildEvent, ChildLog, StopRequested, Supervisor

SHARDS_NOT_CONNECTED = 8
"""Code of the router's fault if it cannot connect to the ranks."""


class RouterProcess:
    """The router over all its starts. The first one imports its modules while the ranks load."""

    def __init__(
        self, command: ChildCommand, group: RankGroup, children: Supervisor, log: ChildLog
    ) -> None:
        self._command = command
        self._group = group
        self._children = children
        self._log = log
        self._history = RestartHistory()
        self._generation = 0
        """Generation of the ranks that the router connects to when it starts."""
        self._started_at = 0.0
        self._child = children.start(command, send_config=False)

    async def wait_ready(self) -> ChildEvent:
        """Let the first start connect to the ranks, which are ready, and wait until it serves.

        Raises StopRequested and StartupError.
        """
        self._send_config()
        event = await self._wait_for("ready")
        self._child.is_restarted = True
        return event

    async def keep_running(self) -> None:
        """Start it again whenever it has ended. Raises StopRequested and StartupError."""
        while True:
            event = await self._next_event()
            match event:
                case ChildEvent(event="ready"):
                    seconds = monotonic() - self._started_at
                    self._log(f"Router restarted in {seconds:.1f}s", event="router_restarted")
                case ChildEvent(event="fault", data={"code": int(code), "text": str(text)}):
                    self._log(f"The router cannot start: {text}", event="router_fault")
                    if code == SHARDS_NOT_CONNECTED and self._generation == self._group.generation:
                        self._group.report(text)
                case ChildEvent(child, "ended"):
                    await self._restart(child)

    async def drain(self, grace_seconds: float) -> None:
        """Let live requests finish for `grace_seconds`. Raises StartupError(1) at a second signal.

        Between two starts there are none.
        """
        if self._child.process.poll() is not None:
            return
        self._child.is_restarted = not self._child.ready  # only then is its exit status an error
        self._child.terminate()
        try:
            async with asyncio.timeout(grace_seconds):
                await self._wait_for("ended")
        except TimeoutError:
            text = f"Requests still live after {grace_seconds} s are cancelled"
            self._log(text, event="cancelled")
        except StopRequested:
            raise StartupError(1, "Aborted: a second signal arrived during draining") from None

    def on_shards_restarted(self, generation: int) -> None:
        """Tell the router that `generation` of the ranks is ready."""
        self._child.send({"generation": generation})

    async def _restart(self, ended: Child) -> None:
        """Start it again after a delay, as soon as all ranks are ready."""
        failure = ended.exit_error()
        delay = self._history.next_delay(monotonic())
        if delay is None:
            raise StartupError(1, failure.text)
        self._log(f"Restarting the router in {delay} s: {failure.text}", event="router_restarting")
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                while True:
                    await self._handle_event()
        while not self._group.is_ready:
            await self._handle_event()
        self._child = self._children.start(self._command, send_config=False)
        self._child.is_restarted = True
        self._send_config()

    def _send_config(self) -> None:
        """Let the router connect to the current generation, which is ready."""
        self._started_at, self._generation = monotonic(), self._group.generation
        start = {"generation": self._generation, "load_seconds": self._group.load_seconds}
        self._child.send({**self._command.config, **start})

    async def _next_event(self) -> ChildEvent:
        """The router's next event."""
        while (event := await self._handle_event()).child is not self._child:
            pass
        return event

    async def _handle_event(self) -> ChildEvent:
        """The next event of any child, which the group has been given."""
        event = await self._children.next_event()
        self._group.on_event(event)
        return event

    async def _wait_for(self, name: str) -> ChildEvent:
        while (event := await self._next_event()).event != name:
            pass
        return event
