"""One child process: how it is started, asked to stop, and what its end means as an error.

A child reads its configuration, and messages after it, as lines of JSON from stdin, and must exit
when stdin ends. It reports events as one JSON object per line on stdout. It does not outlive this
process: PR_SET_PDEATHSIG follows the thread that forks, so a child must be started from the main
thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import IO, Any

from shard.child_command import python_command, python_environment
from shard.errors import StartupError

STDERR_TAIL_LINES = 50
"""Number of last lines of stderr that are kept for an error message."""
STARTUP_TAIL_LINES = 20
"""Number of those lines that the error of a child that never became ready shows."""
PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class ChildCommand:
    """A child to start; `config` becomes the first line of its stdin."""

    name: str
    """`rank N`, `router`, `fetch` or `convert`."""
    argv: Sequence[str]
    config: Mapping[str, Any]
    descriptors: tuple[int, ...] = ()
    """File descriptors that the child inherits."""

    @property
    def error_prefix(self) -> str:
        """The first part of the child's error names, which are TGI's."""
        names = {"router": "Webserver", "fetch": "Download", "convert": "Conversion"}
        return names.get(self.name, "Shard")

    def preflight(self, module: str, **more: Any) -> ChildCommand:
        """The command that checks with `module` what this child would start with."""
        config = {"config": self.config, **more}
        return replace(self, argv=python_command(module), config=config)


class Child:
    """A running process. The three flags are set by those who supervise it."""

    def __init__(self, command: ChildCommand, send_config: bool = True) -> None:
        """Start it; without `send_config` it imports its modules and waits for the first `send`."""
        self.command = command
        self.started_at = monotonic()
        self.ready = False
        self.exit_expected = False
        self.is_restarted = False
        """Whether it is started again when it fails, so that its failure is not an error."""
        self.stderr_tail: deque[str] = deque(maxlen=STDERR_TAIL_LINES)
        self.process = subprocess.Popen(  # noqa: S603
            command.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=python_environment(os.environ),
            pass_fds=command.descriptors,
            start_new_session=True,
            preexec_fn=partial(_die_with_parent, os.getpid()),
        )
        if send_config:
            self.send(command.config)

    def send(self, message: Mapping[str, Any]) -> None:
        """Write `message` as one line of JSON to the child's stdin, unless the child has ended."""
        stdin = _require_pipe(self.process.stdin)
        with contextlib.suppress(BrokenPipeError):  # its exit is reported
            if not stdin.closed:
                stdin.write(json.dumps(message).encode() + b"\n")
                stdin.flush()

    def request_exit(self) -> None:
        """Ask the child to exit by closing its stdin."""
        self.exit_expected = True
        self.close_stdin()

    def close_stdin(self) -> None:
        """Close this process's end of the child's stdin."""
        with contextlib.suppress(BrokenPipeError):
            _require_pipe(self.process.stdin).close()

    def terminate(self) -> None:
        """Ask the child to finish its work and exit, by SIGTERM."""
        self.exit_expected = True
        self.process.terminate()

    def reported_error(self, code: int, text: str) -> StartupError:
        """The error for a fault that the child reported, with an error name if `code` has none."""
        if self.ready:
            return StartupError(1, f"{self._failed}: {self.command.name}: {text}")
        return StartupError(code, f"{self._cannot_start}: {text}" if code in (1, 8) else text)

    def exit_error(self) -> StartupError:
        """The error for an unexpected exit of the child."""
        if self.ready:
            return StartupError(1, f"{self._failed}: {self._describe_exit('', STDERR_TAIL_LINES)}")
        text = self._describe_exit(" before it was ready", STARTUP_TAIL_LINES)
        return StartupError(8, f"{self._cannot_start}: {text}")

    @property
    def _failed(self) -> str:
        return f"{self.command.error_prefix}Failed"

    @property
    def _cannot_start(self) -> str:
        return f"{self.command.error_prefix}CannotStart"

    def _describe_exit(self, when: str, lines: int) -> str:
        code = self.process.returncode
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        tail = "".join(f"\n  {line}" for line in list(self.stderr_tail)[-lines:])
        return f"{self.command.name} {how}{when}; last lines of its stderr:{tail or ' none'}"


def _die_with_parent(parent: int) -> None:
    """In the child, before exec: die with the launcher, even if it died since the fork."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _require_pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise TypeError("the child was started without pipes")
    return pipe
