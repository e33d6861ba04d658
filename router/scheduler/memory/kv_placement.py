"""Where each row's KV is: in pages, in host slots, or nowhere; and how it moves between them.

Makes the moves that the batch builder asks for, and records each of them for the Batch. A row is
admitted with the KV that exists already: its own from the host, or published pages. The last known
token is always fed again, since its logits are needed; if a published page ends with it, the row
gets a copy of that page, because it will write there. Pages that were filled without drafting lack
the draft's KV: `RowStart` says so, and the row catches up if it drafts.

A row that is not served stays in place. One that must give up its pages is swapped, at the cost of
copying all pages to the host and back, or recomputed, at the cost of a prefill of what no other row
holds: the cheaper of the two, by measured speed, as long as the host has room.

Decides no order: which row is preempted for which is decided by the batch builder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from router.scheduler.api import (
    Copy,
    DeviceCapacity,
    PageGrowth,
    RowStart,
    ScheduledBatch,
    ScheduledRow,
    Swap,
)
from router.scheduler.memory.page_allocator import PageAllocator
from router.scheduler.row import Row
from router.scheduler.snapshot import PageCounts

EXPECTED_ANSWER_TOKENS = 512
"""Maximum answer length in tokens for which a row looks for adjacent pages when it starts."""


@dataclass(slots=True)
class PageMoves:
    """The memory operations of one Batch."""

    grow: list[PageGrowth] = field(default_factory=list)
    evict: list[int] = field(default_factory=list)
    start: list[RowStart] = field(default_factory=list)
    copy: list[Copy] = field(default_factory=list)
    swap_out: list[Swap] = field(default_factory=list)
    swap_in: list[Swap] = field(default_factory=list)

    def to_batch(self, run: Iterable[ScheduledRow], release: tuple[int, ...]) -> ScheduledBatch:
        """Return the Batch that makes these moves and then runs `run`."""
        return ScheduledBatch(
            run=tuple(run),
            grow=tuple(self.grow),
            release=release,
            evict=tuple(self.evict),
            start=tuple(self.start),
            copy=tuple(self.copy),
            swap_out=tuple(self.swap_out),
            swap_in=tuple(self.swap_in),
        )


class KvPlacement:
    """All pages and host slots, and the moves of the Batch that is being planned."""

    def __init__(self, capacity: DeviceCapacity) -> None:
        self.pages = PageAllocator(capacity.pages)
        self._capacity = capacity
        self._host_slots = HostSlots(capacity.host_pages)
        self._moves = PageMoves()
        self.rows_on_host = 0
        """Rows whose KV is on the host."""

    @property
    def rows_with_kv(self) -> int:
        """Rows that hold KV, in pages or on the host."""
        return self.pages.owner_count + self.rows_on_host

    def page_counts(self) -> PageCounts:
        """Return all pages by state."""
        capacity, pages = self._capacity, self.pages
        return PageCounts(
            total=capacity.pages,
            used=capacity.pages - pages.free,
            shared=pages.shared,
            cached=pages.cached,
            free=pages.free - pages.cached,
            swap_total=capacity.host_pages,
            swap_used=capacity.host_pages - self._host_slots.free,
        )

    def begin_batch(self) -> PageMoves:
        """Begin a Batch. The host slots that the last one emptied become free."""
        for swap in self._moves.swap_in:
            self._host_slots.release(swap.slots)
        self._moves = PageMoves()
        return self._moves

    def begin_admission(self, row: Row) -> int | None:
        """Open the table of a row without pages, with the KV that exists already.

        Returns the page that it must copy, if any. `finish_admission` or `cancel_admission` has to
        follow.
        """
        job, size = row.job, self._capacity.page_size
        expected = self.pages_for(min(row.known_tokens + EXPECTED_ANSWER_TOKENS, job.max_kv_tokens))
        reserved = self.pages_for(job.max_kv_tokens)
        if row.host_slots:
            self.pages.open_table(job.id, (), expected, reserved)
            return None
        shared = self.pages.open_table(job.id, row.shareable_prefix(size), expected, reserved)
        tail = row.hashes[shared : shared + 1] if (shared + 1) * size == row.known_tokens else []
        source = self.pages.find(tail[0]) if tail else None
        cached = shared * size if source is None else row.known_tokens - 1
        filled = self.pages.table(job.id) if source is None else (*self.pages.table(job.id), source)
        row.start_from_cache(cached, min(cached, self.pages.draft_complete_length(filled) * size))
        return source

    def cancel_admission(self, row: Row) -> None:
        """Undo `begin_admission`, for lack of room."""
        self.pages.release(row.job.id)
        if not row.host_slots:
            row.reset()

    def finish_admission(self, row: Row, source: int | None) -> None:
        """An admitted row has all its pages: record how they are filled."""
        table = self.pages.table(row.job.id)
        self._moves.grow.append(PageGrowth(row.job.id, table))
        if row.cached:
            self._moves.start.append(RowStart(row.job.id, row.cached, row.draft_cached))
        if row.host_slots:
            self._moves.swap_in.append(
                Swap(row.job.id, table[: len(row.host_slots)], row.host_slots)
            )
            row.host_slots = ()
            self.rows_on_host -= 1
        if source is not None:
            self._moves.copy.append(Copy(source, table[row.cached // self._capacity.page_size]))

    def grow(self, row: Row, count: int) -> None:
        """Append `count` pages to a row that was admitted before."""
        self._moves.grow.append(PageGrowth(row.job.id, self.pages.allocate(row.job.id, count)))

    def preempt(self, row: Row) -> None:
        """Swap a row out, or evict it, whichever costs less."""
        id, size = row.job.id, self._capacity.page_size
        shared = self.pages.shared_length(id) * size
        if should_swap(row.cached, shared, self._host_slots.free, self._capacity):
            pages = self.pages.table(id)[: self.pages_for(row.cached)]
            row.host_slots = self._host_slots.allocate(len(pages))
            self.rows_on_host += 1
            row.published_pages = row.draft_complete_pages = 0
            self._moves.swap_out.append(Swap(id, pages, row.host_slots))
        else:
            self._moves.evict.append(id)
            row.reset()
        self.pages.release(id)

    def publish(self, row: Row) -> None:
        """Share the pages that `row` will not write again, with or without the draft's KV.

        The draft's KV may be written later, by any owner: equal tokens give equal values.
        """
        id, settled = row.job.id, min(row.cached, row.known_tokens - 2) // self._capacity.page_size
        if settled > row.published_pages:
            self.pages.publish(id, row.hashes[row.published_pages : settled], row.published_pages)
            row.published_pages = settled
        complete = min(settled, row.draft_cached // self._capacity.page_size)
        if complete > row.draft_complete_pages:
            self.pages.mark_draft_complete(id, row.draft_complete_pages, complete)
            row.draft_complete_pages = complete

    def remove(self, row: Row) -> bool:
        """Remove a row that ended. Return whether it holds pages, which `release` must free."""
        if row.host_slots:
            self._host_slots.release(row.host_slots)
            self.rows_on_host -= 1
        return bool(self.pages.page_count(row.job.id))

    def release(self, ids: Iterable[int]) -> None:
        """Free the pages of rows that ended."""
        for id in ids:
            self.pages.release(id)

    def pages_for(self, tokens: int) -> int:
        """Return the pages that `tokens` tokens need."""
        return -(-tokens // self._capacity.page_size)


PREEMPTION_MODES = ("auto", "swap", "recompute")
"""Values of `DeviceCapacity.preemption`."""


class HostSlots:
    """Pages of host memory, 0..`count` - 1, lowest first."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count - 1, -1, -1))

    @property
    def free(self) -> int:
        """Number of free slots."""
        return len(self._free)

    def allocate(self, count: int) -> tuple[int, ...]:
        """Allocate `count` slots. Raises IndexError if fewer are free."""
        return tuple(self._free.pop() for _ in range(count))

    def release(self, slots: Sequence[int]) -> None:
        """Free `slots`."""
        self._free.extend(reversed(slots))


def should_swap(cached: int, shared: int, free: int, capacity: DeviceCapacity) -> bool:
    """Return whether to swap a row with `cached` tokens, `shared` of them in shared pages.

    `free`: free host slots. At equal costs it swaps.
    """
    pages = -(-cached // capacity.page_size)
    if capacity.preemption == "recompute" or not 0 < pages <= free:
        return False
    swap_seconds = 2 * pages * capacity.page_size * capacity.swap_token_seconds
    recompute_seconds = (cached - shared) * capacity.prefill_token_seconds
    return capacity.preemption == "swap" or swap_seconds <= recompute_seconds
