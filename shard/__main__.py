"""Entry point of one rank: read the configuration, start the engine, serve until stopped.

The launcher owns this process. Line 1 of stdin is the configuration; end of file on stdin, like
SIGTERM, means stop: the main thread gets an exception at its next bytecode, and if native code
blocks it for too long, the process exits without it. stdout carries one JSON object per line to
the launcher and nothing else, so anything that libraries print goes to stderr.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from threading import Event, Thread

from shard.config import ShardConfig
from shard.echo.echo_engine import EchoEngine
from shard.errors import StartupError
from shard.events import Emit, open_event_channel
from shard.light_imports import import_transformers
from shard.server import StepEngine, serve

EXIT_GRACE_SECONDS = 2.0
"""Time limit for the main thread to leave native code before the process exits."""


class _Terminated(BaseException):
    """Raised in the main thread by SIGTERM; not caught by `except Exception`."""


def main() -> int:
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        line = stdin.readline()
    if not line:
        return 0
    emit, ended = open_event_channel(), Event()
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, _raise_terminated)
        Thread(target=_terminate_on_stdin_eof, args=(ended,), name="stdin", daemon=True).start()
        config = ShardConfig(**json.loads(line))
        logging.basicConfig(
            stream=sys.stderr, level=config.log_level, format="%(levelname)s %(message)s"
        )
        _serve_until_stopped(config, emit)
    except StartupError as fault:
        emit({"event": "fault", "code": fault.code, "text": fault.text})
        return fault.code
    except _Terminated:
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # nothing may change the exit status now
        ended.set()
    return 0


def _serve_until_stopped(config: ShardConfig, emit: Emit) -> None:
    def progress(text: str, percent: int) -> None:
        emit({"event": "progress", "rank": config.rank, "text": text, "percent": percent})

    serve(_build_engine(config, progress), config, ready=lambda: emit({"event": "ready"}))


def _build_engine(config: ShardConfig, progress: Callable[[str, int], None]) -> StepEngine:
    if config.echo:
        return EchoEngine(config)
    import_transformers()
    from shard.engine import start_engine

    return start_engine(config, progress)


def _raise_terminated(number: int, frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough
    raise _Terminated


def _terminate_on_stdin_eof(ended: Event) -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    if not ended.wait(EXIT_GRACE_SECONDS):
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
