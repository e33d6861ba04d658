"""The launcher as a child process on a free loopback port, and what its routes report.

It gets SIGTERM when the process that started it dies, even if that is killed. Only Linux has that.
"""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
FLAGS = ("--hostname", "127.0.0.1", "--port", "0", "--json-output", "true")
GRACE_SECONDS = 120.0


class Launched:
    """A running launcher."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start it and wait until it listens. Raises RuntimeError with its last lines."""
        self._process = subprocess.Popen(  # noqa: S603
            (*command, *FLAGS),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_die_with_parent,
        )
        self.url = self._wait_for_url()
        threading.Thread(target=self._pass_on, daemon=True).start()

    def check(self) -> None:
        """Raise RuntimeError if it has ended."""
        if (status := self._process.poll()) is not None:
            raise RuntimeError(f"the launcher has ended with status {status}")

    def stop(self) -> None:
        """Let it drain; kill it if that takes too long."""
        self._process.terminate()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _wait_for_url(self) -> str:
        lines: list[str] = []
        assert self._process.stdout  # noqa: S101  narrows the type
        for line in self._process.stdout:
            lines.append(line)
            if '"connected"' in line:
                url: str = json.loads(line)["url"]
                return url
        raise RuntimeError("the launcher did not start:\n" + "".join(lines[-20:]))

    def _pass_on(self) -> None:
        """Copy its log to stderr, where Ray collects it."""
        assert self._process.stdout  # noqa: S101  narrows the type
        for line in self._process.stdout:
            sys.stderr.write(line)


def gauges(page: str, names: Sequence[str]) -> dict[str, float]:
    """Return the values of the named metrics without labels. Raises KeyError for a missing one."""
    found = {}
    for line in page.splitlines():
        name, _, value = line.partition(" ")
        if name in names:
            found[name] = float(value)
    return {name: found[name] for name in names}


def _die_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
