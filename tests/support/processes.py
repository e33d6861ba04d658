"""Processes that tests start or watch; they are killed by id when the test ends.

Rule: nothing here waits longer than `TIMEOUT_SECONDS`, and no process is looked up by name.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from tests.support.paths import ROOT

TIMEOUT_SECONDS = 30.0
"""Seconds after which a test stops waiting: a bound, never a claim about speed."""


class Running:
    """A process whose stdout and stderr are read line by line, with a timeout."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._rest = b""

    def line(self, word: str) -> str:
        """Return the next line that contains `word`. Fails if the output ends before."""
        for line in iter(self._next, None):
            if word in line:
                return line
        raise AssertionError(f"no line with {word!r} in {self.lines}")

    def url(self) -> str:
        """Return the URL in the launcher's next line that says "Connected"."""
        match = re.search(r"http://[\d.:]+", self.line("Connected"))
        assert match, self.lines
        return match[0]

    def end(self) -> int:
        """Read to the end of the output and return the exit status."""
        while self._next() is not None:
            pass
        return self.process.wait(timeout=TIMEOUT_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def _next(self) -> str | None:
        assert self.process.stdout
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while b"\n" not in self._rest:
            left = max(0, deadline - time.monotonic())
            readable = select.select([self.process.stdout], [], [], left)[0]
            assert readable, f"no output after {self.lines}"
            if not (chunk := os.read(self.process.stdout.fileno(), 1 << 16)):
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        self.lines.append(line.decode())
        return self.lines[-1]


class Processes:
    """Starts processes, and watches others by pidfd, which stays valid if a pid is reused."""

    def __init__(self) -> None:
        self._running: list[Running] = []
        self._watched: dict[int, int] = {}

    def start(self, *argv: str, **more: Any) -> Running:
        """Start Python with `argv`; its stdout and stderr are read together."""
        process = self._popen(argv, subprocess.PIPE, more)
        self._running.append(Running(process))
        return self._running[-1]

    def start_on_terminal(self, *argv: str, **more: Any) -> Running:
        """Start Python with a terminal as its stdout and stderr."""
        outer, inner = pty.openpty()
        process = self._popen(argv, inner, more)
        os.close(inner)
        process.stdout = os.fdopen(outer, "rb", buffering=0)
        self._running.append(Running(process))
        return self._running[-1]

    def _popen(
        self, argv: Sequence[str], stdout: int, more: dict[str, Any]
    ) -> subprocess.Popen[bytes]:
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | more.pop("env", {})
        return subprocess.Popen(
            (sys.executable, *argv),
            stdout=stdout,
            stderr=subprocess.STDOUT,
            env=environment,
            **more,
        )

    def watch(self, pid: int) -> int:
        """Watch a process that the test did not start itself. Return `pid`."""
        self._watched[pid] = os.pidfd_open(pid)
        return pid

    def has_ended(self, pid: int) -> bool:
        """Wait for a watched process to end. Return False after `TIMEOUT_SECONDS`."""
        return bool(select.select([self._watched[pid]], [], [], TIMEOUT_SECONDS)[0])

    def end(self) -> None:
        for running in self._running:
            running.process.kill()
            running.process.wait()
            assert running.process.stdout
            running.process.stdout.close()
        for descriptor in self._watched.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            os.close(descriptor)


@contextmanager
def launched(*flags: str) -> Iterator[Running]:
    """The real launcher on a free port; at the exit it drains, and must end with status 0."""
    started = Processes()
    try:
        address = ("--hostname", "127.0.0.1", "-p", "0")
        server = started.start(str(ROOT / "launcher.py"), *address, *flags)
        yield server
        server.signal(signal.SIGTERM)
        assert server.end() == 0
    finally:
        started.end()
