"""Where converted GGUF files are kept, and that each is converted once and completely.

Decides names and takes locks; knows nothing of models. Imports no heavy library, since the
launcher looks here before it starts a conversion.
"""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from shard.cache_folder import cache_folder

CONVERTER_VERSION = 1
"""Increased when the same file would be converted to something else."""


def converted_folder(file: Path, dtype: str | None, environment: Mapping[str, str]) -> Path:
    """The folder for `file` converted to `dtype`; None is the default of this machine.

    It lies in the XDG cache folder. Its name depends on what identifies the file, its path, size
    and time of modification, and on the converter, so that a changed file is converted again.
    """
    file = file.resolve()
    status = file.stat()
    identity = (
        str(file),
        str(status.st_size),
        str(status.st_mtime_ns),
        str(dtype),
        str(CONVERTER_VERSION),
        version("transformers"),
    )
    unique = hashlib.blake2b("\0".join(identity).encode(), digest_size=8).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).strip(".-")[:100]
    return cache_folder(environment) / "gguf" / f"{readable}-{dtype or 'auto'}-{unique}"


def create_once(folder: Path, write: Callable[[Path], None]) -> None:
    """Create `folder` with what `write` puts into it, unless it exists.

    It gets its name when it is complete. A process that finds another at work waits for it; what
    a killed process left behind is removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_name(f"{folder.name}.lock")):
        if folder.is_dir():
            return
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            write(partial)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _lock(file: Path) -> Iterator[None]:
    """Hold an exclusive lock on `file`, which the kernel releases when this process ends."""
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
