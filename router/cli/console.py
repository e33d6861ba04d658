"""The launcher's log: plain lines, or with `--json-output` one JSON object per line.

Events and the children's lines go to stdout, warnings and errors to stderr.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any, TextIO


class ConsoleLog:
    """Writes events, warnings, errors and the children's lines for the operator."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def __call__(self, text: str, **fields: Any) -> None:
        """Log an event. A plain line shows `rank` and `percent` of the `fields`, JSON shows all."""
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
