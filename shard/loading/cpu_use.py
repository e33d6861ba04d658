"""Whether other processes used the cores while a rank measured.

What was measured on a busy machine shows what it could do then, not what it can do. Linux counts
how long each core was busy with anything; what the ranks themselves used is not others' work. Where
the kernel does not say, the machine counts as busy.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

MAX_OTHERS = 0.1
"""Share of the cores that others may use while ranks measure what is kept."""
STATISTICS = Path("/proc/stat")
_FIELDS = slice(1, 9)
"""user, nice, system, idle, iowait, irq, softirq, steal; guests are part of user."""
_IDLE = slice(3, 5)
"""idle and iowait, of those."""


@dataclass(frozen=True, slots=True)
class CpuSeconds:
    """Seconds of all cores that this process may use, together: in total, busy, and its own."""

    total: float = 0.0
    busy: float = 0.0
    own: float = 0.0

    def __add__(self, other: CpuSeconds) -> CpuSeconds:
        return CpuSeconds(self.total + other.total, self.busy + other.busy, self.own + other.own)

    def __sub__(self, other: CpuSeconds) -> CpuSeconds:
        return CpuSeconds(self.total - other.total, self.busy - other.busy, self.own - other.own)


def share_of_others(used: CpuSeconds) -> float:
    """The share of the cores that others used; 1 if that is unknown."""
    return max(0.0, used.busy - used.own) / used.total if used.total > 0 else 1.0


def read_cpu_seconds() -> CpuSeconds:
    """What has been used since the machine and this process began."""
    cores = os.sched_getaffinity(0)
    ticks = os.sysconf("SC_CLK_TCK")
    total, busy = _total_and_busy(_read(STATISTICS), cores)
    own = os.times()
    return CpuSeconds(total / ticks, busy / ticks, own.user + own.system)


class CpuUse:
    """What was used during calls, which all ranks make at the same time."""

    def __init__(
        self,
        sum_over_ranks: Callable[[float], float] = float,
        read: Callable[[], CpuSeconds] = read_cpu_seconds,
    ) -> None:
        self._sum, self._read = sum_over_ranks, read
        self._used = CpuSeconds()

    def during(self, call: Callable[[], Result]) -> Result:
        """The result of `call`, during which use is counted."""
        before = self._read()
        result = call()
        self._used += self._read() - before
        return result

    def others_share(self) -> float:
        """The share of the cores that was used by others than the ranks, during all calls.

        The same on every rank; all of them ask together.
        """
        ranks = self._sum(1.0)
        total, busy = self._sum(self._used.total) / ranks, self._sum(self._used.busy) / ranks
        return share_of_others(CpuSeconds(total, busy, self._sum(self._used.own)))


def _total_and_busy(statistics: str, cores: Collection[int]) -> tuple[int, int]:
    """Ticks of `cores` in the text of /proc/stat; zero for those that it does not name."""
    total = idle = 0
    names = {f"cpu{core}" for core in cores}
    for fields in map(str.split, statistics.splitlines()):
        if fields and fields[0] in names:
            ticks = [int(field) for field in fields[_FIELDS]]
            total, idle = total + sum(ticks), idle + sum(ticks[_IDLE])
    return total, total - idle


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:  # not visible in this container
        return ""
