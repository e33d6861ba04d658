"""Memory and descriptors of a process, from /proc, and how memory grows over time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import linear_regression

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """What a process uses at a moment, in monotonic seconds."""

    moment: float
    memory_mib: float
    """Resident memory."""
    descriptors: int


def usage(pid: int, moment: float) -> ProcessUsage:
    """What process `pid` uses now. Raises OSError if it has ended."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / MIB
    return ProcessUsage(moment, memory, len(os.listdir(f"/proc/{pid}/fd")))


def memory_slope(samples: Sequence[ProcessUsage]) -> float:
    """Growth of memory in MiB per hour, by least squares. Needs two samples or more."""
    moments = [sample.moment for sample in samples]
    slope: float = linear_regression(moments, [each.memory_mib for each in samples]).slope
    return slope * 3600
