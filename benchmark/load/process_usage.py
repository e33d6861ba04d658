"""Memory and descriptors of a process, from /proc, and how memory grows over time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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
    """Growth of memory in MiB per hour: the median of the slopes of all pairs (Theil-Sen).

    A peak, or one batch that needed more than all before, does not change it. Needs two samples.
    """
    moments = np.array([sample.moment for sample in samples])
    memory = np.array([sample.memory_mib for sample in samples])
    first, second = np.triu_indices(len(samples), 1)
    slopes = (memory[second] - memory[first]) / (moments[second] - moments[first])
    return 3600 * float(np.median(slopes))
