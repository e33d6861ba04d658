"""A child process that converts a GGUF file to a folder of the conversion cache.

It reads the file, the folder and the dtype as JSON from the first line of its stdin, and writes
events to stdout: `progress`, then `found` or `fault`. It is a process of its own so that the
launcher imports no torch and can stop a conversion like any child.
"""

from __future__ import annotations

import json
import logging
import sys
from functools import partial
from pathlib import Path
from typing import Any

from shard.errors import StartupError
from shard.gguf.conversion_cache import create_once
from shard.gguf.convert import convert


def main() -> int:
    """Convert the file that the first line of stdin names; return the exit status."""
    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s")
    job = json.loads(sys.stdin.readline())
    file, folder = Path(job["file"]), Path(job["folder"])
    try:
        create_once(folder, partial(convert, file, job["dtype"], _report))
    except StartupError as error:
        return _fail(error)
    except OSError as error:
        return _fail(StartupError(7, f"{folder} cannot be written: {error.strerror}"))
    _emit(event="found", path=str(folder))
    return 0


def _fail(error: StartupError) -> int:
    _emit(event="fault", code=error.code, text=error.text)
    return error.code


def _report(text: str, percent: int | None) -> None:
    _emit(event="progress", text=text, percent=percent)


def _emit(**event: Any) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    sys.exit(main())
