"""Which replicas of Ray Serve run a launcher on this machine, by /proc."""

from __future__ import annotations

from pathlib import Path


def launchers() -> dict[int, int]:
    """Process ids of replicas that run a launcher, by the launcher's."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"launcher.py" in (folder / "cmdline").read_bytes():
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if b"ServeReplica:default:replica" in Path(f"/proc/{parent}/cmdline").read_bytes():
                    found[int(folder.name)] = parent
        except OSError:
            continue
    return found
