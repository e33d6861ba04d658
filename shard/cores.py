"""How many CPU cores this process may use: its affinity, its container's quota, OMP_NUM_THREADS.

A container with a quota of two cores sees all cores of its host. Threads beyond the quota would be
stopped together in every period. Reads files of the kernel; imports only the standard library.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import ceil, inf
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def available_cores(environment: Mapping[str, str] = os.environ) -> int:
    """The cores this process may use, at least 1; OMP_NUM_THREADS can only lower their number."""
    limit = environment.get("OMP_NUM_THREADS", "")
    requested = int(limit) if limit.isdecimal() else inf
    return max(1, int(min(len(os.sched_getaffinity(0)), requested, cpu_quota())))


def cpu_quota(root: Path = CGROUPS, own: Path = OWN_CGROUPS) -> float:
    """Cores of the smallest CPU quota of this process's control groups; inf without one.

    Part of a core counts as a whole one. Reads `cpu.max` of version 2 and `cpu.cfs_quota_us` of
    version 1, for every group from the process's own up to the root that is visible here.
    """
    if not own.exists():
        return inf
    entries = (line.split(":", 2) for line in own.read_text().splitlines())
    quotas = [
        quota
        for _, controllers, path in entries
        if not controllers or "cpu" in controllers.split(",")
        for group in _ancestors(path)
        for quota in _quotas(root, controllers, group)
    ]
    return ceil(min(quotas)) if quotas else inf


def _ancestors(path: str) -> list[Path]:
    own = Path(path.lstrip("/"))
    return [own, *own.parents]


def _quotas(root: Path, controllers: str, group: Path) -> list[float]:
    """The quota of `group` in cores; none if it has none or is not visible."""
    if not controllers:
        limits = _read(root / group / "cpu.max").split()
    else:
        folder = root / controllers / group
        limits = [_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    if len(limits) != 2 or not all(limit.isdecimal() and int(limit) for limit in limits):
        return []  # "max" and -1 mean no quota
    return [int(limits[0]) / int(limits[1])]


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # not visible in this container
        return ""
