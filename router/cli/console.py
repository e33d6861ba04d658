"""What the operator reads: plain lines, or with `--json-output` one JSON object a line."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any, TextIO


class ConsoleLog:
    """What the operator reads: plain lines, or one JSON object a line."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def __call__(self, text: str, **facts: Any) -> None:
        """An event; in a plain line only its numbers follow the text."""
        if self._as_json:
            return self._print_json("INFO", text, facts)
        numbers = (
            f" {name}={facts[name]}" for name in ("rank", "percent") if facts.get(name) is not None
        )
        print(text + "".join(numbers), flush=True)

    def forward(self, child: str, line: str) -> None:
        """A child's own line; what is already an object passes as it is."""
        if not self._as_json:
            print(f"{child}: {line}", flush=True)
        elif line.startswith("{") and line.endswith("}"):
            print(line, flush=True)
        else:
            self._print_json("INFO", line, {"source": child})

    def warning(self, text: str) -> None:
        """Something to know, on stderr."""
        if self._as_json:
            self._print_json("WARN", text, {}, sys.stderr)
        else:
            print(f"Warning: {text}", file=sys.stderr, flush=True)

    def error(self, text: str) -> None:
        """The last word, on stderr."""
        if self._as_json:
            self._print_json("ERROR", text, {}, sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def _print_json(
        self, level: str, text: str, facts: dict[str, Any], stream: TextIO | None = None
    ) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"timestamp": now, "level": level, "message": text, **facts}
        print(json.dumps(line), file=stream, flush=True)
