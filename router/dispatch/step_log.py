"""Every Step as a line of JSON, to study what Steps cost. For developers.

The first line is the scheduler's DeviceCapacity; then one line for each Step that served a row:
when it was sent and completed (seconds of the dispatcher's clock), the device's seconds, and a list
for each row: id, tokens known before, prefilled, drafted, accepted, emitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from router.dispatch.step_pipeline import CompletedStep
from router.requests.record import LiveRequest
from router.scheduler.api import DeviceCapacity


class StepLog:
    """One file, which holds every completed Step."""

    def __init__(self, path: str, capacity: DeviceCapacity) -> None:
        """Raises OSError if the file cannot be created."""
        self._path = Path(path)
        self._path.write_bytes(_line({"capacity": asdict(capacity)}))

    def write(
        self, completed: CompletedStep, records: Mapping[int, LiveRequest], now: float
    ) -> None:
        """A Step completed `now`; `records` do not include its tokens yet."""
        rows = [
            [o.id, _known_tokens(records.get(o.id)), o.prefilled, o.drafted, o.accepted, o.emitted]
            for o in completed.outcomes
        ]
        if rows:
            seconds = {"sent": completed.sent_at, "landed": now, "seconds": completed.seconds}
            with self._path.open("ab") as file:
                file.write(_line({**seconds, "rows": rows}))


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value) + b"\n"


def _known_tokens(record: LiveRequest | None) -> int:
    """0 for a request that ended while the Step was in flight."""
    return 0 if record is None else len(record.prompt) + len(record.tokens)
