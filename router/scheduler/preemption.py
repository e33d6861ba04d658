"""The ladder: how a row that must give up its pages does so. Pure arithmetic on measured rates.

The first rung, keep in place, is no decision of this file: a row that is not served simply stays.
Below it, a swap costs a copy of all pages to the host and back; recomputation costs a prefill of
what nobody else holds. The cheaper one is taken, as long as the host has room.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.scheduler.base import Capacity

PREEMPTIONS = ("auto", "swap", "recompute")
"""What `Capacity.preemption` may be."""


class Slots:
    """Pages of host memory, 0..`count` - 1, lowest first."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count - 1, -1, -1))

    @property
    def free(self) -> int:
        """Slots that hold nothing."""
        return len(self._free)

    def take(self, count: int) -> tuple[int, ...]:
        """`count` free slots. Raises IndexError if there are fewer."""
        return tuple(self._free.pop() for _ in range(count))

    def give_back(self, slots: Sequence[int]) -> None:
        """Make `slots` free."""
        self._free.extend(reversed(slots))


def swaps(cached: int, shared: int, free: int, capacity: Capacity) -> bool:
    """Whether to swap a row with `cached` tokens, `shared` of them also held by others.

    `free`: host slots left. Where swapping and recomputing cost the same, it swaps.
    """
    pages = -(-cached // capacity.page_size)
    if capacity.preemption == "recompute" or not 0 < pages <= free:
        return False
    there_and_back = 2 * pages * capacity.page_size * capacity.swap_token_seconds
    again = (cached - shared) * capacity.prefill_token_seconds
    return capacity.preemption == "swap" or there_and_back <= again
