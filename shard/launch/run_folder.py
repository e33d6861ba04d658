"""The private folder of one launcher, and the removal of those that dead launchers have left.

A launcher holds a lock (flock(2)) on a file in its folder, which the kernel releases however the
launcher ends. A folder whose lock is free is left over. The lock is taken before the
file gets its name, so that no other launcher ever sees it free.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shard.errors import StartupError

PREFIX = "tgi-laps-"
"""The beginning of the folders' names."""
LOCK_NAME = "launcher.lock"


@contextmanager
def run_folder() -> Iterator[Path]:
    """A private folder (mode 0700) for sockets, removed on exit. Raises StartupError(7).

    Folders that dead launchers of the same user have left are removed first.
    """
    try:
        parent = Path(tempfile.gettempdir())
        remove_stale_folders(parent)
        folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        lock = _lock_folder(folder)
    except OSError as error:
        raise StartupError(
            7, f"the folder for sockets cannot be created: {error}; set TMPDIR"
        ) from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # the next launcher removes what is left
        os.close(lock)


def remove_stale_folders(parent: Path) -> None:
    """Remove the folders in `parent` that dead launchers of this user have left."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # it is being removed by its launcher, or by another one
            if not folder.is_symlink() and folder.stat().st_uid == os.getuid():
                _remove_if_stale(folder)


def _remove_if_stale(folder: Path) -> None:
    """Remove `folder` if no process holds its lock. Raises OSError."""
    lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    finally:
        os.close(lock)


def _lock_folder(folder: Path) -> int:
    """Hold the lock of `folder` as long as the returned descriptor is open. Raises OSError."""
    lock, path = tempfile.mkstemp(dir=folder)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.rename(path, folder / LOCK_NAME)
    return lock
