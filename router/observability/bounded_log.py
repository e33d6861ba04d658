"""A file of JSON lines that never grows beyond a maximum size, and says when it stops.

What the lines mean is not known here. A file that cannot be written any more ends the record, not
the server.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

END_BYTES = 64
"""Space that is kept free for the last line."""
_log = logging.getLogger(__name__)


class BoundedLog:
    """One file, to which lines are appended as long as they fit."""

    def __init__(self, path: str, max_bytes: int) -> None:
        """An existing file is continued. Raises OSError if it cannot be written."""
        self._path = Path(path)
        with self._path.open("ab") as file:
            self._left = max_bytes - file.tell() - END_BYTES
        self._is_open = True

    def write(self, value: Mapping[str, Any]) -> None:
        """Append `value` as a line. The first one that does not fit ends the file, with a line."""
        if not self._is_open:
            return
        line = orjson.dumps(value) + b"\n"
        if len(line) <= self._left:
            self._append(line)
        else:
            self._append(b'{"event":"full"}\n')
            self._end("it has reached its maximum size")

    def _append(self, line: bytes) -> None:
        self._left -= len(line)
        try:
            with self._path.open("ab", buffering=0) as file:
                file.write(line)
        except OSError as error:
            self._end(str(error.strerror))

    def _end(self, reason: str) -> None:
        self._is_open = False
        _log.warning("the record %s ends here: %s", self._path, reason)
