"""One Batch in the making: rows in the order of a policy, until rows, budget or pages run out.

Pages are reserved for the worst case of everything in flight, so a Step is never short of memory,
and for a whole prompt before its first chunk, so that no row hoards half of one.

Memory pressure has one rule: the higher rank gets the pages. A row that cannot grow takes them from
the lowest-ranked rows below it, which are swapped out, or evicted and later prefilled again. A row
with Steps in flight is not displaced, since its tokens are still to come: it is passed over until
they have landed. Nobody below a row that waits for pages grows.

A row whose next page is being computed by a prefill in flight waits for that, to share it. A row
on the host is brought back as soon as it could run, or there is room beside those that do, and
runs once that Step has landed: its KV is copied while others run. So the first row in the order
waits for nothing but Steps in flight: its own, or the prefill of a prefix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from router.scheduler.api import Capacity, Run
from router.scheduler.memory.kv_placement import Memory
from router.scheduler.row import Row

Flight = dict[int, tuple[Row, int]]
"""Rows of a Step, each with the most tokens that the Step may emit for it."""


class Plan:
    """Takes rows and pages while `fill` runs; its lists are the Batch afterwards."""

    def __init__(
        self,
        capacity: Capacity,
        memory: Memory,
        order: Sequence[Row],
        drafts: Mapping[int, int],
        flying: Iterable[Row],
        expect: Callable[[Row, float], float] | None = None,
    ) -> None:
        """`drafts`: draft length by id; 0 for rows that it does not name. `flying`: in flight.

        `expect`: tokens that a row with so many emits yet; None: nobody looks ahead.
        """
        self._capacity = capacity
        self._memory = memory
        self._order = order
        self._drafts = drafts
        self._expect = expect
        self._budget = capacity.prefill_tokens
        self._room = capacity.pages * capacity.page_size
        self._slack = capacity.page_size / 2 + capacity.depth * (capacity.speculate + 1)
        """Tokens that a row reserves on average beyond those that it holds."""
        self._demand = 0
        """Tokens that the rows of this Batch may hold one day, and those that asked to enter."""
        self._starved = False
        """A row above waits for pages."""
        self._coming = {hash for row in flying for hash in self._prefix_of(row)}
        """Names of pages that a prefill in flight, or in this Batch, fills."""
        self.moves = memory.plan()
        self.run: list[Run] = []
        self.flight: Flight = {}
        self.passed: set[int] = set()
        """Rows that this Batch must not name: displaced, or to be once they have landed."""

    @property
    def running(self) -> dict[int, Row]:
        """The rows of `run` by id; those that only get back their KV are not among them."""
        return {run.id: self.flight[run.id][0] for run in self.run}

    def fill(self) -> None:
        """Serve as many rows as possible, and bring back the KV of those that come next."""
        holders, closed = self._memory.holders, False
        for place, row in enumerate(self._order):
            if closed and holders and not row.started:
                continue  # there may be thousands of them between two that hold KV
            full = len(self.run) == self._capacity.max_rows
            closed = full or self._starved or not self._budget  # to those that hold nothing
            if (closed and not holders) or (full and not self._memory.hosted):
                return
            holds = row.unfed < row.known
            holders -= holds
            if row.remaining <= 0 or row.job.id in self.passed or row.returning:
                continue
            if row.slots:
                self._recall(row, len(self._order) if full else place)
            elif (holds and not full) or not closed:
                self._serve(row, place)

    def _recall(self, row: Row, place: int) -> None:
        """Bring back the KV of a row, if that displaces none but rows below `place`."""
        if not self._starved and self._enter(row, place):
            row.recall()
            self.flight[row.job.id] = row, 0

    def _serve(self, row: Row, place: int) -> None:
        if row.unfed and not self._budget:
            return
        if self._memory.pages.held(row.job.id):
            self._demand += row.job.prompt + row.job.max_new
            ready = self._reserve(row, place)
        else:
            ready = not self._starved and not self._waits(row) and self._enter(row, place)
        if ready:
            self._fly(row)

    def _waits(self, row: Row) -> bool:
        """Whether a page that `row` could share is on its way."""
        wanted = row.shareable(self._capacity.page_size)
        matched = self._memory.pages.match(wanted) if self._coming else 0
        return not self._coming.isdisjoint(wanted[matched : matched + 1])

    def _enter(self, row: Row, place: int) -> bool:
        """Bring in a row without pages, if there is room."""
        if not self._lasts(row):
            self._starved = True
            return False
        source = self._memory.enter(row)
        short = self._short(row)
        # A row that starts leaves a page for each row above it, lest they displace it at once.
        if not self._free(short + len(self.run), place):
            self._memory.abandon(row)
            return False
        self._memory.pages.take(row.job.id, short)
        self._memory.admit(row, source)
        return True

    def _lasts(self, row: Row) -> bool:
        """Whether pages are expected to last for `row` beside the rows of this Batch.

        All grow alike and each leaves with its pages when it ends, so pages are shortest when one
        of them ends: with rows by what they have left, when the i-th ends, the longer i - 1 hold
        what they hold now and as much more as the i-th grew (Past-Future, arXiv 2507.10150).
        """
        self._demand += row.job.prompt + row.job.max_new
        if self._expect is None or not self.flight or self._demand <= self._room:
            return True
        rows = [row, *(other for other, _ in self.flight.values())]
        ends = sorted(((self._expect(r, r.emitted), r.known) for r in rows), reverse=True)
        now, most = 0, 0.0
        for index, (left, known) in enumerate(ends, 1):
            now += known
            most = max(most, now + index * left)
        return most + len(ends) * self._slack <= self._room

    def _reserve(self, row: Row, place: int) -> bool:
        """Own pages for the worst case of the next Step of a row that has some."""
        short = self._short(row)
        if short <= 0:
            return True
        if not self._free(short, place):
            return False
        self._memory.grow(row, short)
        return True

    def _fly(self, row: Row) -> None:
        prefill, draft, possible = self._next(row)
        self._budget -= prefill
        row.fly(prefill, possible)
        if not prefill:
            row.draft = draft
        self.run.append(Run(row.job.id, prefill, draft))
        self.flight[row.job.id] = row, possible
        if row.hashes:
            self._coming.update(self._prefix_of(row))

    def _next(self, row: Row) -> tuple[int, int, int]:
        """What the next Step does for `row`: tokens fed, drafted, and emitted at most."""
        prefill = min(row.unfed, self._budget)
        if prefill:
            # The chunk that reaches the last known token emits one token, an earlier one none.
            return prefill, 0, int(prefill == row.unfed)
        draft = self._drafts.get(row.job.id, 0)
        return 0, draft, draft + 1

    def _short(self, row: Row) -> int:
        """Pages that `row` lacks for everything in flight and its next Step, fully accepted."""
        prefill, _, possible = self._next(row)
        reach = row.known + (1 if prefill else row.possible + possible)
        tokens = min(reach, row.job.prompt + row.job.max_new)
        return self._memory.pages_for(tokens) - self._memory.pages.held(row.job.id)

    def _prefix_of(self, row: Row) -> list[int]:
        return row.coming(self._capacity.page_size)

    def _free(self, want: int, place: int) -> bool:
        """Have `want` free pages, by displacing rows below `place` if need be and of use."""
        if not self._starved:
            chosen = self._victims(want, place)
            if chosen is not None:
                self.passed.update(row.job.id for row in chosen)
                if not any(row.in_flight for row in chosen):
                    for row in chosen:
                        self._memory.displace(row)
                    return True
        self._starved = True
        return False

    def _victims(self, want: int, place: int) -> list[Row] | None:
        """Rows below `place` without whom `want` pages are free; None where that is too little."""
        free, chosen, dropped = self._memory.pages.free, list[Row](), Counter[int]()
        holders = self._holders(place)
        while free < want:
            row = next(holders, None)
            if row is None:
                return None
            chosen.append(row)
            free += self._memory.pages.gain(row.job.id, dropped)
        return chosen

    def _holders(self, place: int) -> Iterator[Row]:
        """Rows below `place` that hold pages, lowest rank first: those that can go now.

        Those still in flight come after all others. Whoever was passed over once has landed by
        the next Batch, so the wait ends however the order changes meanwhile.
        """
        for flying in (False, True):
            for index in range(len(self._order) - 1, place, -1):
                row = self._order[index]
                holds = self._memory.pages.held(row.job.id) and row.job.id not in self.passed
                if holds and (row.in_flight > 0) is flying:
                    yield row
