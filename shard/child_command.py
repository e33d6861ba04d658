"""The command line and the environment of every Python process that this project starts.

Rule: nothing is imported from the folder in which the server is started, where a file such as
`orjson.py` would otherwise run in place of the library. Imports the standard library only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

INSTALL_ROOT = Path(__file__).resolve().parent.parent
"""Folder of the packages `router` and `shard`."""


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """The command line that runs `module`; -P keeps the current folder out of its path."""
    return (sys.executable, "-P", "-m", module, *arguments)


def python_environment(current: Mapping[str, str]) -> dict[str, str]:
    """The environment `current`, changed so that modules are found from any current folder.

    Empty and relative entries of PYTHONPATH, which depend on that folder, are left out.
    PYTHONSAFEPATH does for the processes that libraries start what -P does for the child.
    """
    entries = current.get("PYTHONPATH", "").split(os.pathsep)
    path = os.pathsep.join((str(INSTALL_ROOT), *filter(os.path.isabs, entries)))
    return {**current, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
