"""Processes that tests start or learn of; `end` kills them by id when the test is over.

Rule: nothing here waits longer than `SOON`, and no process is found by its name.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

from tests.support.paths import ROOT

SOON = 30.0
"""Seconds after which a test stops waiting: a bound, never a claim about speed."""


class Running:
    """A process whose merged output is read line by line, with a deadline."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._rest = b""

    def line(self, word: str) -> str:
        """The next line that contains `word`; AssertionError when the output ends without it."""
        for line in iter(self._next, None):
            if word in line:
                return line
        raise AssertionError(f"no line with {word!r} in {self.lines}")

    def end(self) -> int:
        """Read to the end of the output and return the exit status."""
        while self._next() is not None:
            pass
        return self.process.wait(timeout=SOON)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def _next(self) -> str | None:
        assert self.process.stdout
        until = time.monotonic() + SOON
        while b"\n" not in self._rest:
            waited = select.select([self.process.stdout], [], [], max(0, until - time.monotonic()))
            assert waited[0], f"silence after {self.lines}"
            if not (chunk := os.read(self.process.stdout.fileno(), 1 << 16)):
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        self.lines.append(line.decode())
        return self.lines[-1]


class Processes:
    """Starts processes and remembers them by descriptors, which no other process can inherit."""

    def __init__(self) -> None:
        self._running: list[Running] = []
        self._noted: dict[int, int] = {}

    def start(self, *argv: str, **more: Any) -> Running:
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | more.pop("env", {})
        process = subprocess.Popen(
            (sys.executable, *argv),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            **more,
        )
        self._running.append(Running(process))
        return self._running[-1]

    def note(self, pid: int) -> int:
        """Remember a process that was started elsewhere."""
        self._noted[pid] = os.pidfd_open(pid)
        return pid

    def gone(self, pid: int) -> bool:
        """Whether a noted process ended, waiting for it within the bound."""
        return bool(select.select([self._noted[pid]], [], [], SOON)[0])

    def end(self) -> None:
        for running in self._running:
            running.process.kill()
            running.process.wait()
            assert running.process.stdout
            running.process.stdout.close()
        for descriptor in self._noted.values():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            os.close(descriptor)
