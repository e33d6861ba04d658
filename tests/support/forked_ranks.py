"""Ranks that serve models, forked from one process that has imported torch and the engine.

The imports take most of the time in which a rank of a tiny model starts. Each rank still has its
own process, configuration and sockets, and runs the program of `python -m shard`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Self

from shard.__main__ import main
from shard.config import ShardConfig

_context = get_context("forkserver")
_context.set_forkserver_preload(["shard.engine"])


class ForkedRank:
    """A rank process; it is killed when the `with` block ends.

    `prepare` is called in the process before it starts, and must be importable.
    """

    def __init__(self, config: ShardConfig, prepare: Callable[[], None] | None = None) -> None:
        self.config = config
        stdin, self._stdin = _context.Pipe(duplex=False)
        events, stdout = _context.Pipe(duplex=False)
        self._events = os.fdopen(os.dup(events.fileno()))
        self.process = _context.Process(target=_run, args=(stdin, stdout, prepare))
        self.process.start()
        stdin.close()
        stdout.close()
        os.write(self._stdin.fileno(), json.dumps(asdict(config)).encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()
        self._events.close()

    def next_event(self) -> dict[str, Any]:
        """Return the next event that the process sends to its launcher."""
        event: dict[str, Any] = json.loads(self._events.readline())
        return event


def _run(stdin: Connection, stdout: Connection, prepare: Callable[[], None] | None) -> None:
    """Be a rank whose launcher is at the other ends of the two pipes."""
    if prepare is not None:
        prepare()
    os.dup2(stdin.fileno(), 0)
    os.dup2(stdout.fileno(), 1)
    sys.exit(main())
