"""The launcher's log: plain lines, or with `--json-output` one JSON object per line.

Events and the children's lines go to stdout, warnings and errors to stderr. Progress is reported
more often than it is worth a line: a phase gets one every few seconds.
"""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from time import monotonic
from typing import Any, TextIO

SECONDS_PER_LINE = 5.0
"""Minimum seconds between two lines about the same phase."""
AMOUNT = re.compile(r": \d.*")
"""The end of a report that says how much is done."""


class PhaseLimit:
    """Decides which reports of progress become lines."""

    def __init__(self) -> None:
        self._line_times: dict[str, float] = {}

    def admits(self, text: str, now: float) -> bool:
        """Whether `text` becomes a line at `now`. Its phase is `text` without `: 3 of 60 MB`."""
        phase = AMOUNT.sub("", text)
        if now - self._line_times.get(phase, -SECONDS_PER_LINE) < SECONDS_PER_LINE:
            return False
        self._line_times[phase] = now
        return True


class ConsoleLog:
    """Writes events, warnings, errors and the children's lines for the operator."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._limit = PhaseLimit()

    def __call__(self, text: str, **fields: Any) -> None:
        """Log an event. A plain line shows `rank` and `percent` of the `fields`, JSON shows all."""
        if fields.get("event") == "progress" and not self._limit.admits(text, monotonic()):
            return
        if self._as_json:
            return self._print_json("INFO", text, fields)
        shown = (name for name in ("rank", "percent") if fields.get(name) is not None)
        print(text + "".join(f" {name}={fields[name]}" for name in shown), flush=True)

    def forward(self, child: str, line: str) -> None:
        """Log a line that a child wrote. As JSON, a line that is an object is passed through."""
        if not self._as_json:
            print(f"{child}: {line}", flush=True)
        elif line.startswith("{") and line.endswith("}"):
            print(line, flush=True)
        else:
            self._print_json("INFO", line, {"source": child})

    def on_child_event(self, name: str, event: str) -> None:
        """Handle that child `name` was `started` or has sent `event`: no line is written."""

    def close(self) -> None:
        """Leave the terminal as it was found; plain lines do."""

    def warning(self, text: str) -> None:
        """Log a warning on stderr."""
        if self._as_json:
            self._print_json("WARN", text, {}, sys.stderr)
        else:
            print(f"Warning: {text}", file=sys.stderr, flush=True)

    def error(self, text: str) -> None:
        """Log an error on stderr."""
        if self._as_json:
            self._print_json("ERROR", text, {}, sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def _print_json(
        self, level: str, text: str, fields: dict[str, Any], stream: TextIO | None = None
    ) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"timestamp": now, "level": level, "message": text, **fields}
        print(json.dumps(line), file=stream, flush=True)
