"""The scheduler's learned state in a file, so that a restart does not begin from nothing.

Rule: nothing in this file is worth refusing to serve for, so any problem with it is one warning and
a fresh start. It is written to a temporary file and then renamed: readers, and a crash, leave the
old state or the new one. A file that another program has written is not touched.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgpack

SAVE_INTERVAL_SECONDS = 60.0
"""Time between two saves."""
DISABLED = "none"
"""The setting that saves nothing."""
MAGIC_PREFIX = b"laps-learned "
MAGIC = MAGIC_PREFIX + b"1\n"
"""First bytes of a file of this version; a MessagePack array of model and state follows."""

LearnedState = Mapping[str, Any]

logger = logging.getLogger(__name__)


def state_path(setting: str | None, model: str, environment: Mapping[str, str]) -> Path | None:
    """The file that `setting` names; None if `setting` is `none`.

    Without a setting it lies in the XDG state folder and is named after the model.
    """
    if setting == DISABLED:
        return None
    if setting is not None:
        return Path(setting)
    base = environment.get("XDG_STATE_HOME", "")
    folder = Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "state"
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip(".-")[:100]
    unique = hashlib.blake2b(model.encode(), digest_size=4).hexdigest()
    return folder / "text-generation-laps" / f"{readable}-{unique}.learned"


class SchedulerStateFile:
    """One file; nothing is saved if `path` is None."""

    def __init__(self, path: Path | None, model: str) -> None:
        """`model`: the models whose lengths and acceptance were learned."""
        self._path = path
        self._model = model
        self._saved = b""
        """The file's content, as far as this process knows."""
        self._write_lock = threading.Lock()

    def load(self) -> LearnedState | None:
        """The saved state, if it belongs to this model."""
        if self._path is None:
            return None
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as fault:
            self.warn_unusable(fault.strerror)
            return None
        if content and not content.startswith(MAGIC_PREFIX):
            self.warn_unusable("it belongs to another program; nothing will be saved")
            self._path = None
            return None
        return self._parse(content)

    def warn_unusable(self, reason: object) -> None:
        """Log that the file's content is not used, and why."""
        logger.warning("%s: the scheduler starts without learned state: %s", self._path, reason)

    def save(self, content: bytes) -> None:
        """Write what `serialize` returned, unless it is unchanged; call it off the event loop."""
        with self._write_lock:
            if self._path is None or content == self._saved:
                return
            self._saved = content  # even if writing fails: one warning for one state
            try:
                self._write(content)
            except OSError as fault:
                logger.warning("%s: the learned state is not saved: %s", self._path, fault.strerror)

    def serialize(self, state: LearnedState) -> bytes:
        """The content of a file that holds `state`."""
        packed: bytes = msgpack.packb([self._model, state])
        return MAGIC + packed

    def _parse(self, content: bytes) -> LearnedState | None:
        if not content.startswith(MAGIC):
            self.warn_unusable("it is empty or has another version")
            return None
        try:
            model, state = msgpack.unpackb(content[len(MAGIC) :], strict_map_key=False)
        except (ValueError, TypeError, msgpack.UnpackException) as fault:
            self.warn_unusable(f"damaged ({type(fault).__name__})")
            return None
        if model != self._model or not isinstance(state, dict):
            self.warn_unusable("it belongs to another model")
            return None
        self._saved = content
        return state

    def _write(self, content: bytes) -> None:
        assert self._path is not None  # noqa: S101  narrows the type
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._path.parent, delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                Path(file.name).replace(self._path)
            except BaseException:
                Path(file.name).unlink()
                raise


async def save_periodically(
    state_file: SchedulerStateFile, get_state: Callable[[], LearnedState]
) -> None:
    """Save the state every `SAVE_INTERVAL_SECONDS`, and a last time when cancelled."""
    try:
        while True:
            await asyncio.sleep(SAVE_INTERVAL_SECONDS)
            await asyncio.to_thread(state_file.save, state_file.serialize(get_state()))
    finally:
        state_file.save(state_file.serialize(get_state()))
