"""What becomes of the figures of a benchmark: they are printed, and written to a result file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def publish(
    figures: Mapping[str, float], file: Path | None, decimals: int = 3, **details: object
) -> None:
    """Print `figures`, and write them to `file`, if there is one, before `details`."""
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}} {value:.{decimals}f}")
    if file:
        file.write_text(json.dumps({"figures": figures, **details}, indent=1) + "\n")
