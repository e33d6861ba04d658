"""All child processes of the launcher: starts them, reads their output, never leaves one running.

The children's events, their exits and the signals to this process arrive in one queue, which one
task reads with `next_event`. Nothing here knows what the children do.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import IO, Any, Protocol

from shard.errors import StartupError
from shard.launch.child import Child, ChildCommand

EXIT_TIMEOUT = 1.0
"""Seconds between asking a child to exit and killing it."""
KILL_TIMEOUT = 30.0
"""Seconds for a killed child to end; a driver may have to free its memory first."""
MAX_LINE_BYTES = 1 << 16
"""A longer line of a child is split here."""


class ChildLog(Protocol):
    """The log that gets the children's output."""

    def __call__(self, text: str, **fields: Any) -> None:
        """Log an event of the launcher, or a child's progress."""

    def forward(self, child: str, line: str) -> None:
        """Log a line that a child wrote to stdout or stderr."""

    def on_child_event(self, name: str, event: str) -> None:
        """Handle that child `name` was `started` or has sent `event`."""


class StopRequested(Exception):
    """The operator asked the server to stop."""


@dataclass(frozen=True, slots=True)
class ChildEvent:
    """An event of `child`: `ready`, `found`, `checked` or another name, or `ended`, its exit."""

    child: Child
    event: str
    data: Mapping[str, Any]


class Supervisor:
    """Owns the children of one launcher and the queue of their events."""

    def __init__(self, tasks: asyncio.TaskGroup, log: ChildLog) -> None:
        self.tasks = tasks
        self._log = log
        self._watch_tasks: dict[asyncio.Task[None], Child] = {}
        self._event_queue: asyncio.Queue[ChildEvent | StartupError | None] = asyncio.Queue()

    def start(self, command: ChildCommand, send_config: bool = True) -> Child:
        """Start a child as `Child` does; `next_event` returns its events from now on."""
        child = Child(command, send_config)
        self._watch_tasks[self.tasks.create_task(self._watch(child))] = child
        self._log.on_child_event(command.name, "started")
        return child

    def on_signal(self) -> None:
        """Handle SIGTERM or SIGINT: the next `next_event` raises StopRequested."""
        self._event_queue.put_nowait(None)

    def fail(self, error: StartupError) -> None:
        """End the server: a `next_event` raises `error`."""
        self._event_queue.put_nowait(error)

    async def next_event(self) -> ChildEvent:
        """Wait for the next event other than progress.

        Raises StopRequested after a signal, and StartupError after `fail`, for a fault that a child
        reports, an exit that is not expected, or an expected exit with a status other than 0. The
        failure of a child that is started again is an event like others.
        """
        while True:
            event = await self._event_queue.get()
            match event:
                case None:
                    raise StopRequested
                case StartupError():
                    raise event
                case ChildEvent(child, "progress", data):
                    seconds = round(monotonic() - child.started_at, 3)
                    source = child.command.name
                    fields = {"event": "progress", "source": source, "seconds": seconds, **data}
                    self._log(fields.pop("text"), **fields)
                case ChildEvent(child, "fault", {"code": int(code), "text": str(text)}) if (
                    not child.is_restarted
                ):
                    raise await self._rank_exit_error(child) or child.reported_error(code, text)
                case ChildEvent(child, "ended") if not child.is_restarted and (
                    not child.exit_expected or child.process.returncode
                ):
                    raise child.exit_error()
                case _:
                    event.child.ready |= event.event == "ready"
                    self._log.on_child_event(event.child.command.name, event.event)
                    return event

    async def _rank_exit_error(self, reporter: Child) -> StartupError | None:
        """The exit of a rank, if the router reports a fault because a rank has just died."""
        if reporter.command.error_prefix != "Webserver":
            return None
        ranks = [
            child
            for child in self._watch_tasks.values()
            if child.command.error_prefix == "Shard" and not child.exit_expected
        ]
        ended = await self.first_exit(ranks, EXIT_TIMEOUT / 2)
        return ended.exit_error() if ended else None

    async def first_exit(self, children: Collection[Child], seconds: float) -> Child | None:
        """The first of `children` that has exited by itself; None if none does for `seconds`."""
        tasks = {task: child for task, child in self._watch_tasks.items() if child in children}
        if not tasks:
            return None
        done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return tasks[done.pop()] if done else None

    async def kill(self, children: Collection[Child]) -> None:
        """Kill `children` and wait until they have ended; no event of theirs is needed any more."""
        tasks = [task for task, child in self._watch_tasks.items() if child in children]
        for child in children:
            child.process.kill()
        await asyncio.wait(tasks, timeout=KILL_TIMEOUT)
        for task in tasks:
            del self._watch_tasks[task]

    async def wait_each(self, event: str, children: Sequence[Child]) -> AsyncIterator[ChildEvent]:
        """The first `event` of each of `children`, in the order in which they arrive."""
        waiting = set(children)
        while waiting:
            next_event = await self.next_event()
            if next_event.event == event and next_event.child in waiting:
                waiting.remove(next_event.child)
                yield next_event

    async def wait_for(self, event: str, child: Child) -> ChildEvent:
        """Wait for the next `event` of `child`."""
        while True:
            next_event = await self.next_event()
            if next_event.event == event and next_event.child is child:
                return next_event

    async def result_of(self, command: ChildCommand, event: str) -> Mapping[str, Any]:
        """Run a child to its end, and return the data of its `event`. Raises as `next_event`."""
        child = self.start(command)
        result = await self.wait_for(event, child)
        child.exit_expected = True
        await self.wait_for("ended", child)
        return result.data

    async def shutdown(self) -> None:
        """Ask all children to exit, and kill those that still run after `EXIT_TIMEOUT`."""
        running = {task: child for task, child in self._watch_tasks.items() if not task.done()}
        for child in running.values():
            child.request_exit()
        if running:
            _, late = await asyncio.wait(running, timeout=EXIT_TIMEOUT)
            for task in late:
                running[task].process.kill()

    async def _watch(self, child: Child) -> None:
        """Read a child's output until it exits; its own children may keep the pipes open longer."""
        async with asyncio.TaskGroup() as pipes:
            readers = [
                pipes.create_task(self._read_events(child)),
                pipes.create_task(self._read_stderr(child)),
            ]
            await _wait_for_exit(child.process)
            await asyncio.wait(readers, timeout=EXIT_TIMEOUT / 4)
            for reader in readers:
                reader.cancel()
        child.close_stdin()
        self._event_queue.put_nowait(ChildEvent(child, "ended", {}))

    async def _read_events(self, child: Child) -> None:
        async for line in _read_lines(child.process.stdout):
            try:
                data = json.loads(line)
                event = data.pop("event")
            except (ValueError, AttributeError, KeyError, TypeError):  # printed by a library
                self._log.forward(child.command.name, line)
            else:
                self._event_queue.put_nowait(ChildEvent(child, event, data))

    async def _read_stderr(self, child: Child) -> None:
        async for line in _read_lines(child.process.stderr):
            child.stderr_tail.append(line)
            self._log.forward(child.command.name, line)


async def _wait_for_exit(process: subprocess.Popen[bytes]) -> None:
    """Wait for the process itself without a thread, even if others hold its pipes open."""
    exited, descriptor = asyncio.Event(), os.pidfd_open(process.pid)
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, exited.set)
    try:
        await exited.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    process.wait()


async def _read_lines(pipe: IO[bytes] | None) -> AsyncIterator[str]:
    """The lines of a pipe, without empty ones; a carriage return ends a line too."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    rest = b""
    try:
        while chunk := await reader.read(MAX_LINE_BYTES):
            *lines, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
            if len(rest) >= MAX_LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in filter(None, lines):
                yield line.decode(errors="replace")
        if rest:
            yield rest.decode(errors="replace")
    finally:
        transport.close()
