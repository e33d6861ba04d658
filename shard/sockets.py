"""Where the ranks listen: sockets in a private folder, or at a prefix that the operator gave."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shard.errors import Fault

LONGEST = 107
"""Bytes of a Unix socket's path on Linux."""


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """A private folder (0700) for sockets, gone at the end. Raises Fault(7)."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="tgi-laps-")
    except OSError as error:
        raise Fault(7, f"no folder for sockets: {error}; set TMPDIR") from None
    with folder as path:
        yield Path(path)


def paths(prefix: str | None, folder: Path, world: int) -> tuple[str, ...]:
    """A Unix socket per rank. Raises Fault(7) for a path that the system cannot hold."""
    start = Path(prefix).absolute() if prefix else folder / "rank"
    found = tuple(f"{start}-{rank}" for rank in range(world))
    if not os.access(start.parent, os.W_OK | os.X_OK):
        raise Fault(7, f"`shard_uds_path`: the folder {start.parent} is not writable")
    if any(len(os.fsencode(path)) > LONGEST for path in found):
        raise Fault(7, f"the path of a socket is longer than {LONGEST} bytes: {found[-1]}")
    return found
