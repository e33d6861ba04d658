"""The adapters that a rank holds, by number. Decides nothing: which ones, the router tells it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shard.lora.lora_adapter import Adapter
from shard.wire.protocol import ProtocolError

LoadFunction = Callable[[Path, int], Adapter]
"""From a folder and a number. Raises StartupError for an adapter that cannot be served."""


class AdapterTable:
    """The loaded adapters. Rows keep theirs, so removing one frees it once they have ended."""

    def __init__(self, load: LoadFunction) -> None:
        self._load = load
        self._adapters: dict[int, Adapter] = {}

    def load(self, number: int, folder: Path) -> Adapter:
        """Load the adapter in `folder` as `number`; may be called while Steps run.

        Raises StartupError, and then the table is as before.
        """
        self._adapters[number] = self._load(folder, number)
        return self._adapters[number]

    def remove(self, number: int) -> None:
        """Forget the adapter `number`, if it is loaded."""
        self._adapters.pop(number, None)

    def get(self, number: int) -> Adapter:
        """The adapter `number`. Raises ProtocolError if it is not loaded."""
        if number not in self._adapters:
            raise ProtocolError(f"adapter {number} is not loaded")
        return self._adapters[number]
