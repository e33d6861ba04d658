"""The real launcher with its children, seen from outside: log events and process ids.

Rule: decides how the server is started and watched; must not know what is measured. Only
processes that this server has started are found, through /proc.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmark.server.server import (
    ENVIRONMENT,
    TIMEOUT_SECONDS,
    ServerFailed,
    launcher_command,
)


class WatchedServer:
    """A running launcher; created by `running`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        """Process id of the launcher."""
        self._lines: list[str] = []
        self.seen: list[dict[str, Any]] = []
        """The events so far."""
        self._events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self.url = ""

    def children(self, module: str) -> list[int]:
        """Process ids of the launcher's children that run `module`, oldest first."""
        return child_pids(self._process.pid, module)

    async def event(self, name: str) -> dict[str, Any]:
        """The next event `name` of the launcher's log. Raises ServerFailed if there is none."""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                while event := await self._events.get():
                    if event.get("event") == name:
                        return event
        except TimeoutError:
            pass
        raise ServerFailed(f"no event {name!r}:\n" + "\n".join(self._lines[-20:]))

    def count(self, name: str) -> int:
        """How many events `name` the launcher has logged so far."""
        return sum(event.get("event") == name for event in self.seen)

    async def read(self) -> None:
        """Read the log until the launcher ends."""
        assert self._process.stdout  # noqa: S101  narrows the type
        async for line in self._process.stdout:
            self._lines.append(line.decode(errors="replace").rstrip())
            if self._lines[-1].startswith("{"):
                event = json.loads(self._lines[-1])
                self.seen.append(event)
                self._events.put_nowait(event)
        self._events.put_nowait(None)

    async def end(self) -> int:
        """Ask the launcher to end, and return its exit status."""
        if self._process.returncode is None:
            self._process.terminate()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()


@asynccontextmanager
async def running(
    flags: Sequence[str], environment: Mapping[str, str] = ENVIRONMENT
) -> AsyncIterator[WatchedServer]:
    """A server on loopback that is ready. Raises ServerFailed, also if it does not end well."""
    process = await asyncio.create_subprocess_exec(
        *launcher_command(*flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=1 << 20,
        env=environment,
    )
    server = WatchedServer(process)
    reading = asyncio.ensure_future(server.read())
    try:
        server.url = (await server.event("connected"))["url"]
        yield server
    finally:
        status = await server.end()
        await reading
    if status:
        raise ServerFailed(f"exit status {status}")


def child_pids(pid: int, module: str) -> list[int]:
    """Process ids of the children of `pid` that run `module`, oldest first."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in map(int, children) if module in _command_line(child)]


def _command_line(pid: int) -> list[str]:
    """The arguments of a process; none if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []
