"""The launcher's side of the contract with its children: start, listen, and never leave one over.

A child reads its config as one line of JSON from stdin and takes EOF there as the order to end.
It reports events, one JSON object a line, on stdout. All reports, ends and signals meet in one
inbox, and one task reads it; nothing here knows what the children do. No child outlives this
process: PR_SET_PDEATHSIG follows the thread that forks, so children are started from the main
thread only.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol

from shard.errors import StartupError

EXIT_TIMEOUT = 1.0
"""Seconds between asking a child to end and ending it."""
STDERR_TAIL_LINES = 50
"""Lines of stderr that are kept of each child."""
MAX_LINE_BYTES = 1 << 16
"""Bytes after which a child's line is cut."""
PR_SET_PDEATHSIG = 1
INSTALL_ROOT = Path(__file__).resolve().parents[2]
_LIBC = ctypes.CDLL(None)


class ChildLog(Protocol):
    """Where the children's words go."""

    def __call__(self, text: str, **facts: Any) -> None:
        """An event of ours, or progress of a child."""

    def forward(self, child: str, line: str) -> None:
        """A line that a child wrote for people."""


class StopRequested(Exception):
    """The operator asked for the end."""


@dataclass(frozen=True, slots=True)
class ChildCommand:
    """A child to start; `config` becomes the first line of its stdin."""

    name: str
    """`rank N`, `router` or `fetch`."""
    argv: Sequence[str]
    config: Mapping[str, Any]
    descriptors: tuple[int, ...] = ()

    @property
    def error_prefix(self) -> str:
        """The word for it in the errors' names, which are TGI's."""
        return {"router": "Webserver", "fetch": "Download"}.get(self.name, "Shard")


class Child:
    """A running process. It is `ready` once it said so, and `exit_expected` once its end is
    expected.
    """

    def __init__(self, command: ChildCommand) -> None:
        self.command = command
        self.ready = False
        self.exit_expected = False
        self.stderr_tail: deque[str] = deque(maxlen=STDERR_TAIL_LINES)
        self.process = subprocess.Popen(  # noqa: S603
            command.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": _python_path()},
            pass_fds=command.descriptors,
            start_new_session=True,
            preexec_fn=partial(_die_with_parent, os.getpid()),
        )
        with contextlib.suppress(BrokenPipeError):  # it died at once, which is reported as its end
            _require_pipe(self.process.stdin).write(json.dumps(command.config).encode() + b"\n")
            _require_pipe(self.process.stdin).flush()

    def request_exit(self) -> None:
        """Ask for the end: EOF on stdin."""
        self.exit_expected = True
        self.close_stdin()

    def close_stdin(self) -> None:
        """Close our end of stdin."""
        with contextlib.suppress(BrokenPipeError):
            _require_pipe(self.process.stdin).close()

    def terminate(self) -> None:
        """Ask for the end by signal, for a child that has work to finish."""
        self.exit_expected = True
        self.process.terminate()

    def as_startup_error(self, code: int, text: str) -> StartupError:
        """What a fault means to the operator; its name is in the text where no code has one."""
        if self.ready:
            return StartupError(
                1, f"{self.command.error_prefix}Failed: {self.command.name}: {text}"
            )
        return StartupError(
            code, f"{self.command.error_prefix}CannotStart: {text}" if code in (1, 8) else text
        )

    def exit_error(self) -> StartupError:
        """The end of a child that should live."""
        code = self.process.returncode
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        lines = list(self.stderr_tail)[None if self.ready else -20 :]
        last = "".join(f"\n  {line}" for line in lines)
        when = "" if self.ready else " before it was ready"
        text = f"{self.command.name} {how}{when}; last lines of its stderr:{last or ' none'}"
        if self.ready:
            return StartupError(1, f"{self.command.error_prefix}Failed: {text}")
        return StartupError(8, f"{self.command.error_prefix}CannotStart: {text}")


@dataclass(frozen=True, slots=True)
class ChildEvent:
    """Something to decide on. `event` is `ready`, `found`, `ended` or another word of `child`."""

    child: Child
    event: str
    data: Mapping[str, Any]


class Supervisor:
    """All children of one launcher, and the inbox in which they report."""

    def __init__(self, tasks: asyncio.TaskGroup, log: ChildLog) -> None:
        self.tasks = tasks
        self._log = log
        self._watch_tasks: dict[asyncio.Task[None], Child] = {}
        self._event_queue: asyncio.Queue[ChildEvent | None] = asyncio.Queue()

    def start(self, command: ChildCommand) -> Child:
        """Start a child; what it reports comes out of `report`."""
        child = Child(command)
        self._watch_tasks[self.tasks.create_task(self._watch(child))] = child
        return child

    def on_signal(self) -> None:
        """Called for SIGTERM and SIGINT: the next `report` raises StopRequested."""
        self._event_queue.put_nowait(None)

    async def next_event(self) -> ChildEvent:
        """The next report to decide on, or StopRequested, or Fault for a fault or an unexpected
        end.
        """
        while True:
            report = await self._event_queue.get()
            match report:
                case None:
                    raise StopRequested
                case ChildEvent(event="progress", data=facts):
                    said = {"event": "progress", **facts}
                    self._log(said.pop("text"), **said)
                case ChildEvent(child, "fault", {"code": int(code), "text": str(text)}):
                    raise await self._rank_exit_error(child) or child.as_startup_error(code, text)
                case ChildEvent(child, "ended") if (
                    not child.exit_expected or child.process.returncode
                ):
                    raise child.exit_error()
                case _:
                    report.child.ready |= report.event == "ready"
                    return report

    async def _rank_exit_error(self, reporter: Child) -> StartupError | None:
        """The death of a rank, if that is what the router complains of before we know it."""
        ranks = {t: c for t, c in self._watch_tasks.items() if c.command.error_prefix == "Shard"}
        if reporter.command.error_prefix == "Webserver" and ranks:
            dead, _ = await asyncio.wait(
                ranks, timeout=EXIT_TIMEOUT / 2, return_when=asyncio.FIRST_COMPLETED
            )
            return ranks[dead.pop()].exit_error() if dead else None
        return None

    async def wait_each(self, event: str, children: Sequence[Child]) -> AsyncIterator[ChildEvent]:
        """One report of `event` from each of `children`, as they come."""
        waiting = set(children)
        while waiting:
            report = await self.next_event()
            if report.event == event and report.child in waiting:
                waiting.remove(report.child)
                yield report

    async def wait_for(self, event: str, child: Child) -> ChildEvent:
        """The next report of `event` from `child`."""
        while True:
            report = await self.next_event()
            if report.event == event and report.child is child:
                return report

    async def shutdown(self) -> None:
        """End whatever still runs: asked first, killed after `PATIENCE` seconds."""
        living = {task: child for task, child in self._watch_tasks.items() if not task.done()}
        for child in living.values():
            child.request_exit()
        if living:
            _, late = await asyncio.wait(living, timeout=EXIT_TIMEOUT)
            for task in late:
                living[task].process.kill()

    async def _watch(self, child: Child) -> None:
        """Read a child until it is gone; its own children may hold the pipes open longer."""
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
                facts = json.loads(line)
                event = facts.pop("event")
            except (ValueError, AttributeError, KeyError, TypeError):  # a library's print
                self._log.forward(child.command.name, line)
            else:
                self._event_queue.put_nowait(ChildEvent(child, event, facts))

    async def _read_stderr(self, child: Child) -> None:
        async for line in _read_lines(child.process.stderr):
            child.stderr_tail.append(line)
            self._log.forward(child.command.name, line)


def _python_path() -> str:
    """Children import what the launcher imports, wherever it was called from."""
    return os.pathsep.join(filter(None, (str(INSTALL_ROOT), os.environ.get("PYTHONPATH"))))


def _die_with_parent(parent: int) -> None:
    """In the child, before exec: die with the launcher, even if it died since the fork."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _require_pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise TypeError("the child was started without pipes")
    return pipe


async def _wait_for_exit(process: subprocess.Popen[bytes]) -> None:
    """Wait for the process itself, without a thread and whoever holds its pipes."""
    gone, descriptor = asyncio.Event(), os.pidfd_open(process.pid)
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    process.wait()


async def _read_lines(pipe: IO[bytes] | None) -> AsyncIterator[str]:
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), pipe
    )
    rest = b""
    try:
        while chunk := await reader.read(MAX_LINE_BYTES):
            *whole, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
            if len(rest) >= MAX_LINE_BYTES:
                whole, rest = [*whole, rest], b""
            for line in filter(None, whole):
                yield line.decode(errors="replace")
        if rest:
            yield rest.decode(errors="replace")
    finally:
        transport.close()
