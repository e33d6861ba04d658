"""The ranks' Unix sockets: in the run folder, or at a path prefix that the operator sets."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

from shard.errors import StartupError

MAX_PATH_BYTES = 107
"""Maximum length of a Unix socket's path on Linux."""


def socket_paths(prefix: str | None, folder: Path, world: int) -> tuple[str, ...]:
    """The path of each rank's socket. Raises StartupError(7) if one is too long or not writable."""
    start = Path(prefix).absolute() if prefix else folder / "rank"
    paths = tuple(f"{start}-{rank}" for rank in range(world))
    if not os.access(start.parent, os.W_OK | os.X_OK):
        raise StartupError(7, f"`shard_uds_path`: the folder {start.parent} is not writable")
    if any(len(os.fsencode(path)) > MAX_PATH_BYTES for path in paths):
        raise StartupError(
            7,
            f"the path of a socket is longer than {MAX_PATH_BYTES} bytes: {paths[-1]}; set"
            " `--shard-uds-path` or TMPDIR to a shorter one",
        )
    return paths


@contextlib.contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """A listening Unix socket at `path` with mode 0600, removed on exit.

    Replaces the socket of a process that has died. Raises StartupError(7) if `path` is too long, in
    use or not writable.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise StartupError(
            7, f"socket path {path} has more than {MAX_PATH_BYTES} bytes; use a shorter one"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            _remove_stale(path)
            listener.bind(path)
            os.chmod(path, 0o600)  # before `listen`, so that no one else can connect
            listener.listen(1)
        except OSError as error:
            raise StartupError(7, f"cannot listen on socket {path}: {error.strerror}") from error
        try:
            yield listener
        finally:
            os.unlink(path)


def _remove_stale(path: str) -> None:
    if not os.path.exists(path) or not stat.S_ISSOCK(os.stat(path).st_mode):
        return  # `bind` reports any other file at this path
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
    raise StartupError(7, f"socket {path} is in use by a process; stop it or use another path")


def peer_uid(connection: socket.socket) -> int:
    """The user id of the process at the other end of a Unix socket."""
    credentials = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    return int(struct.unpack("3i", credentials)[1])
