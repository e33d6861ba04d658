"""Fuzz one target with atheris: `python -m tests.fuzz.coverage_guided TARGET [libFuzzer flags]`.

`make fuzz-atheris` runs each target. It needs the package atheris, which is no dependency of the
tests; they call the same targets with a few inputs.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any


def main(arguments: list[str]) -> None:
    """Fuzz until a fault is found or the flags say so; ends the process."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["router", "shard"]):
        targets = importlib.import_module("tests.fuzz.targets")
    name, *flags = arguments
    atheris.Setup([name, *flags], targets.TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
