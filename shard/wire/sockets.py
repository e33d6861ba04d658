"""Where the ranks listen: sockets in a private folder, or at a prefix that the operator gave."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shard.errors import StartupError

MAX_PATH_BYTES = 107
"""Bytes of a Unix socket's path on Linux."""


@contextlib.contextmanager
def run_folder() -> Iterator[Path]:
    """A private folder (0700) for sockets, gone at the end. Raises Fault(7)."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="tgi-laps-")
    except OSError as error:
        raise StartupError(7, f"no folder for sockets: {error}; set TMPDIR") from None
    with folder as path:
        yield Path(path)


def socket_paths(prefix: str | None, folder: Path, world: int) -> tuple[str, ...]:
    """A Unix socket per rank. Raises Fault(7) for a path that the system cannot hold."""
    start = Path(prefix).absolute() if prefix else folder / "rank"
    found = tuple(f"{start}-{rank}" for rank in range(world))
    if not os.access(start.parent, os.W_OK | os.X_OK):
        raise StartupError(7, f"`shard_uds_path`: the folder {start.parent} is not writable")
    if any(len(os.fsencode(path)) > MAX_PATH_BYTES for path in found):
        raise StartupError(
            7, f"the path of a socket is longer than {MAX_PATH_BYTES} bytes: {found[-1]}"
        )
    return found


@contextlib.contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """A Unix socket at `path`, open to its owner alone and removed at the end.

    A socket that a dead process left is replaced. Raises Fault(7) if `path` is too long, in use or
    not writable.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise StartupError(
            7, f"socket path {path} has more than {MAX_PATH_BYTES} bytes; use a shorter one"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            _remove_stale(path)
            listener.bind(path)
            os.chmod(path, 0o600)  # nobody can connect before `listen`
            listener.listen(1)
        except OSError as fault:
            raise StartupError(7, f"cannot listen on socket {path}: {fault.strerror}") from fault
        try:
            yield listener
        finally:
            os.unlink(path)


def _remove_stale(path: str) -> None:
    if not os.path.exists(path) or not stat.S_ISSOCK(os.stat(path).st_mode):
        return  # `bind` reports anything that is in the way
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise StartupError(7, f"socket {path} belongs to a live process; end it or use another path")


def peer_uid(connection: socket.socket) -> int:
    """User id of the process at the other end."""
    credentials = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    return int(struct.unpack("3i", credentials)[1])
