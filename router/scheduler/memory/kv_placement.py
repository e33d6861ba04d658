"""Where each row's KV is: in pages, in host slots, or nowhere; and how it gets from one to another.

It moves what the plan tells it to, and notes each move for the Batch. A row enters with what it
can have for nothing: its own KV from the host, or pages that others have published. The last known
token is always fed again, since its logits are wanted; where a published page ends with it, the
row gets a copy of that page, because it will write there. Of pages that a row without drafts has
filled, a draft has nothing: the row that starts with them is told so, and catches up if it drafts.

A row that is not served simply stays in place. One that must give up its pages is swapped, at the
cost of a copy of all pages to the host and back, or recomputed, at the cost of a prefill of what
nobody else holds: the cheaper one, by measured rates, as long as the host has room.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from router.scheduler.api import Batch, Capacity, Copy, Grow, Run, Start, Swap
from router.scheduler.memory.page_allocator import Pages
from router.scheduler.row import Row

HOPE = 512
"""Most tokens of an answer for which a run of pages is sought at its start."""


@dataclass(slots=True)
class Moves:
    """What one Batch does to the memory."""

    grow: list[Grow] = field(default_factory=list)
    evict: list[int] = field(default_factory=list)
    start: list[Start] = field(default_factory=list)
    copy: list[Copy] = field(default_factory=list)
    swap_out: list[Swap] = field(default_factory=list)
    swap_in: list[Swap] = field(default_factory=list)

    def batch(self, run: Iterable[Run], release: tuple[int, ...]) -> Batch:
        """The Batch that makes these moves and then does `run`."""
        return Batch(
            run=tuple(run),
            grow=tuple(self.grow),
            release=release,
            evict=tuple(self.evict),
            start=tuple(self.start),
            copy=tuple(self.copy),
            swap_out=tuple(self.swap_out),
            swap_in=tuple(self.swap_in),
        )


class Memory:
    """All pages and host slots, and the moves of the Batch that is being planned."""

    def __init__(self, capacity: Capacity) -> None:
        self.pages = Pages(capacity.pages)
        self._capacity = capacity
        self._slots = Slots(capacity.host_pages)
        self._moves = Moves()
        self.hosted = 0
        """Rows whose KV is on the host."""

    @property
    def holders(self) -> int:
        """Rows that hold KV, in pages or on the host."""
        return self.pages.owners + self.hosted

    def plan(self) -> Moves:
        """Begin a Batch. Host slots that the last one emptied are free from now on."""
        for swap in self._moves.swap_in:
            self._slots.give_back(swap.slots)
        self._moves = Moves()
        return self._moves

    def enter(self, row: Row) -> int | None:
        """Open the table of a row without pages and count what it need not compute again.

        Returns the page that it is to copy, if any. `admit` or `abandon` has to follow.
        """
        job, size = row.job, self._capacity.page_size
        hope = self.pages_for(row.known + min(job.max_new - row.emitted, HOPE))
        most = self.pages_for(job.prompt + job.max_new)
        if row.slots:
            self.pages.open(job.id, (), hope, most)
            return None
        shared = self.pages.open(job.id, row.shareable(size), hope, most)
        tail = row.hashes[shared : shared + 1] if (shared + 1) * size == row.known else []
        source = self.pages.find(tail[0]) if tail else None
        cached = shared * size if source is None else row.known - 1
        filled = self.pages.table(job.id) if source is None else (*self.pages.table(job.id), source)
        row.skip(cached, min(cached, self.pages.completed(filled) * size))
        return source

    def abandon(self, row: Row) -> None:
        """A row that entered found no room."""
        self.pages.give_back(row.job.id)
        if not row.slots:
            row.forget()

    def admit(self, row: Row, source: int | None) -> None:
        """A row that entered has all its pages: note how they are filled."""
        table = self.pages.table(row.job.id)
        self._moves.grow.append(Grow(row.job.id, table))
        if row.cached:
            self._moves.start.append(Start(row.job.id, row.cached, row.draft_cached))
        if row.slots:
            self._moves.swap_in.append(Swap(row.job.id, table[: len(row.slots)], row.slots))
            row.slots = ()
            self.hosted -= 1
        if source is not None:
            self._moves.copy.append(Copy(source, table[row.cached // self._capacity.page_size]))

    def grow(self, row: Row, count: int) -> None:
        """Append `count` pages to a row that was admitted before."""
        self._moves.grow.append(Grow(row.job.id, self.pages.take(row.job.id, count)))

    def displace(self, row: Row) -> None:
        """Take a row's pages, by the cheaper of the two ways."""
        id, size = row.job.id, self._capacity.page_size
        shared = self.pages.shared(id) * size
        if swaps(row.cached, shared, self._slots.free, self._capacity):
            pages = self.pages.table(id)[: self.pages_for(row.cached)]
            row.slots = self._slots.take(len(pages))
            self.hosted += 1
            row.published = row.completed = 0
            self._moves.swap_out.append(Swap(id, pages, row.slots))
        else:
            self._moves.evict.append(id)
            row.forget()
        self.pages.give_back(id)

    def publish(self, row: Row) -> None:
        """Let others start with what `row` will never write again, whether the draft has it or not.

        The draft's part may be written later, by any owner: equal tokens give equal values.
        """
        id, settled = row.job.id, min(row.cached, row.known - 2) // self._capacity.page_size
        if settled > row.published:
            self.pages.publish(id, row.hashes[row.published : settled], row.published)
            row.published = settled
        complete = min(settled, row.draft_cached // self._capacity.page_size)
        if complete > row.completed:
            self.pages.complete(id, row.completed, complete)
            row.completed = complete

    def drop(self, row: Row) -> bool:
        """Forget a row that ended; whether it holds pages, which `release` is to free."""
        if row.slots:
            self._slots.give_back(row.slots)
            self.hosted -= 1
        return bool(self.pages.held(row.job.id))

    def release(self, ids: Iterable[int]) -> None:
        """Free the pages of rows that ended."""
        for id in ids:
            self.pages.give_back(id)

    def pages_for(self, tokens: int) -> int:
        """Pages that `tokens` tokens take."""
        return -(-tokens // self._capacity.page_size)


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
