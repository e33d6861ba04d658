"""Measurements of earlier launchers with the same models, configuration and machine.

Decides what a measurement depends on and where it is kept: a file named by a digest of that. A file
that is damaged or of another format is ignored with one line in the log. So is, silently, one that
`MAX_USES` starts have used: a machine changes in ways that no key shows. Knows nothing of what is
measured.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zlib import crc32

from shard.config import ShardConfig
from shard.cores import available_cores
from shard.errors import first_line

_log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[1]
"""The code that measures; when any of it changes, what was measured before is not used."""
MAX_USES = 20
"""Starts after which the next one measures again."""
MAX_FILES = 64
"""Maximum number of files in the folder; the oldest are removed."""
FILES = "[0-9a-f]" * 32 + ".*"
"""The files in the folder that this module has written."""
MAX_BYTES = 1 << 20
"""A larger file is damaged: what a rank measures takes a few kilobytes."""
NOT_MEASURED = frozenset(
    (
        "model_id",
        "socket",
        "rendezvous",
        "log_level",
        "model_path",
        "draft_path",
        "measurement_cache",
    )
)
"""Fields of a rank's configuration that do not change what it measures; paths are resolved."""


def identity(config: ShardConfig) -> dict[str, Any]:
    """What the measurements of the rank of `config` depend on, as JSON. Raises OSError."""
    folders = filter(None, (config.model_path, config.draft_path))
    return {
        "code": _digest_code(PACKAGE),
        "config": {k: v for k, v in asdict(config).items() if k not in NOT_MEASURED},
        "files": [_describe_files(Path(folder)) for folder in folders],
        "machine": [platform.machine(), _processor(), available_cores()],
        "libraries": [version(name) for name in ("torch", "transformers")],
    }


class MeasurementCache:
    """The file for the measurements of one key."""

    def __init__(self, key: Mapping[str, Any], folder: Path) -> None:
        self._key = json.dumps(key)
        self._uses = 0
        self._kept: list[Any] = []
        self.file = folder / f"{_digest(self._key)}.json"

    def read(self) -> list[Any]:
        """The measurements; none if they have to be made again."""
        try:
            kept = json.loads(self._read_text())
            self._check(kept)
            self._uses = kept["uses"]
            self._kept = list(kept["values"]) if self._uses < MAX_USES else []
            return self._kept
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            _log.warning("%s cannot be used (%s); measuring again", self.file, first_line(error))
        return []

    def has_read(self, values: Sequence[Any]) -> bool:
        """Whether `values` are what `read` has returned."""
        return list(values) == self._kept

    def write(self, values: Sequence[Any], are_reused: bool) -> None:
        """Replace the file at once, and remove the oldest of more than `MAX_FILES`.

        `are_reused`: `values` are those that have been read, and not measured again.
        Where it cannot be written, the log says so, and the next launcher measures again.
        """
        uses = self._uses + 1 if are_reused else 0
        kept = {"key": self._key, "uses": uses, "digest": _digest(json.dumps(values))}
        new = self.file.with_suffix(f".{os.getpid()}")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps({**kept, "values": values}))
            os.replace(new, self.file)
            for old in sorted(self.file.parent.glob(FILES), key=_modified)[:-MAX_FILES]:
                old.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("measurements are not kept: %s", error)

    def _read_text(self) -> str:
        with self.file.open() as file:
            return file.read(MAX_BYTES)

    def _check(self, kept: Mapping[str, Any]) -> None:
        """Raises ValueError, KeyError or TypeError for a file that was not written like this."""
        if kept["key"] != self._key or not isinstance(kept["uses"], int):
            raise ValueError("another key")
        if kept["digest"] != _digest(json.dumps(kept["values"])):
            raise ValueError("the values have been changed")


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _digest_code(package: Path) -> str:
    """A digest of the Python files of `package`, by their paths. Raises OSError."""
    files = sorted(package.rglob("*.py"))
    code = ((str(file.relative_to(package)), file.read_bytes()) for file in files)
    return _digest("".join(f"{name} {crc32(content)} " for name, content in code))


def _describe_files(folder: Path) -> list[list[str | int]]:
    """The path, size and time of modification of the configuration and the weights."""
    files = sorted(file.resolve() for file in folder.iterdir() if _is_model_file(file))
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _is_model_file(file: Path) -> bool:
    return file.suffix == ".safetensors" or file.name == "config.json"


def _modified(file: Path) -> float:
    return file.stat().st_mtime


def _processor() -> str:
    """The processor's name as Linux reports it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if "model name" in line), "")
