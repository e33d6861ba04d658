"""What an observer sees of the scheduler at one moment: every row, and the pages by state.

Frozen values of numbers and names, without text or token ids. Taking a snapshot changes no
decision: it neither renews a rank nor ages a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from router.scheduler.row import Row

PHASES = ("queued", "prefill", "decode", "preempted", "swapped")
"""Values of `RowSnapshot.phase`, in the order in which a row can reach them."""


@dataclass(frozen=True, slots=True)
class PageCounts:
    """Pages of the KV cache by state: `used`, `cached` and `free` add up to `total`."""

    total: int
    used: int
    """Pages of live rows."""
    shared: int
    """Those of `used` that several rows own."""
    cached: int
    """Pages without an owner that hold a prefix; they are evicted when pages are needed."""
    free: int
    """Pages that hold nothing."""
    swap_total: int
    """Pages of host memory for rows that are swapped out."""
    swap_used: int


@dataclass(frozen=True, slots=True)
class RowSnapshot:
    """One live row."""

    id: int
    phase: str
    """One of `PHASES`."""
    level: int
    """1 is the highest; 0 is for rows that have waited too long."""
    perceptible: bool
    """Whether its acceptance rate is stable."""
    remaining_seconds: float
    """Estimated device time that it still needs, in seconds."""
    device_seconds: float
    """Device time received, in seconds."""
    pages: int
    """Pages that it holds, shared ones included."""
    draft_length: int
    """Draft length of its last round, or the maximum before the first."""
    survival: tuple[float, ...]
    """S_1..S_n: the probability that the first k drafts of a round are all accepted."""
    preemptions: Mapping[str, int]
    """Number of its preemptions by kind."""


@dataclass(frozen=True, slots=True)
class SchedulerSnapshot:
    """The scheduler at one moment."""

    rows: tuple[RowSnapshot, ...]
    """Those of the last Batch first, then by arrival; possibly not all."""
    row_count: int
    """Number of live rows."""
    pages: PageCounts
    survival: tuple[float, ...]
    """S_1..S_n over all requests."""


def row_phase(row: Row, *, in_last_batch: bool) -> str:
    """Return what `row` is doing, as one of `PHASES`."""
    if row.host_slots or row.swapping_in:
        return "swapped"
    if in_last_batch:
        return "prefill" if row.cached < row.known_tokens - 1 else "decode"
    return "preempted" if row.started else "queued"
