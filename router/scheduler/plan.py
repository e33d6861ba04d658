"""One Batch in the making: rows in the order of a policy, until rows, budget or pages run out.

Pages are reserved for the worst case of everything in flight, so a Step is never short of memory,
and for a whole prompt before its first chunk, so that no row hoards half of one.

Memory pressure has one rule: the higher rank gets the pages. A row that cannot grow takes them from
the lowest-ranked rows below it, which are evicted and later prefilled from their first token. A row
with Steps in flight is not evicted, since its tokens are still to come: it is passed over until
they have landed. Nobody below a row that waits for pages grows. So the first row in the order waits
for nothing but its own Steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from router.scheduler.base import Capacity, Grow, Run
from router.scheduler.pages import Pages
from router.scheduler.row import Row

HOPE = 512
"""Most tokens of an answer for which a run of pages is sought at its start."""

Flight = dict[int, tuple[Row, int]]
"""Rows of a Step, each with the most tokens that the Step may emit for it."""


class Plan:
    """Takes rows and pages while `fill` runs; its lists are the Batch afterwards."""

    def __init__(
        self, capacity: Capacity, pages: Pages, order: Sequence[Row], drafts: Mapping[int, int]
    ) -> None:
        """`drafts`: draft length by id; 0 for rows that it does not name."""
        self._capacity = capacity
        self._pages = pages
        self._order = order
        self._drafts = drafts
        self._budget = capacity.prefill_tokens
        self._starved = False
        """A row above waits for pages."""
        self.run: list[Run] = []
        self.grow: list[Grow] = []
        self.evict: list[int] = []
        self.flight: Flight = {}
        self.passed: set[int] = set()
        """Rows that this Batch must not name: evicted, or to be evicted once they have landed."""

    def fill(self) -> None:
        """Serve as many rows as possible."""
        for place, row in enumerate(self._order):
            if len(self.run) == self._capacity.max_rows:
                return
            if row.remaining > 0 and row.job.id not in self.passed:
                self._serve(row, place)

    def _serve(self, row: Row, place: int) -> None:
        prefill = min(row.unfed, self._budget)
        if row.unfed and not prefill:
            return
        draft = 0 if prefill else self._drafts.get(row.job.id, 0)
        # The chunk that reaches the last known token emits one token, an earlier one none.
        possible = int(prefill == row.unfed) if prefill else draft + 1
        reach = row.known + (1 if prefill else row.possible + possible)
        if not self._reserve(row, reach, place):
            return
        self._budget -= prefill
        row.fly(prefill, possible)
        if not prefill:
            row.draft = draft
        self.run.append(Run(row.job.id, prefill, draft))
        self.flight[row.job.id] = row, possible

    def _reserve(self, row: Row, tokens: int, place: int) -> bool:
        """Own pages for `tokens` tokens of `row`, the one at `place` in the order."""
        held = self._pages.held(row.job.id)
        short = self._pages_for(tokens) - held
        if short <= 0:
            return True
        # A row that starts leaves a page for each row above it, lest they evict it at once.
        spare = 0 if held else len(self.run)
        if self._starved or not self._free(short + spare, place):
            self._starved = True
            return False
        hope = self._pages_for(row.known + min(row.job.max_new - row.emitted, HOPE))
        self.grow.append(Grow(row.job.id, self._pages.take(row.job.id, short, hope)))
        return True

    def _free(self, want: int, place: int) -> bool:
        """Have `want` free pages, by evicting rows below `place` if need be and of use."""
        free, chosen = self._pages.free, []
        if free >= want:
            return True
        for row in self._holders(place):
            chosen.append(row)
            free += self._pages.held(row.job.id)
            if free >= want:
                break
        else:
            return False
        self.passed.update(row.job.id for row in chosen)
        if any(row.in_flight for row in chosen):
            return False
        for row in chosen:
            self._pages.give_back(row.job.id)
            row.forget()
            self.evict.append(row.job.id)
        return True

    def _holders(self, place: int) -> Iterator[Row]:
        """Rows below `place` that hold pages, lowest rank first: those that can be evicted now.

        Those still in flight come after all others. Whoever was passed over once has landed by
        the next Batch, so the wait ends however the order changes meanwhile.
        """
        for flying in (False, True):
            for index in range(len(self._order) - 1, place, -1):
                row = self._order[index]
                holds = self._pages.held(row.job.id) and row.job.id not in self.passed
                if holds and (row.in_flight > 0) is flying:
                    yield row

    def _pages_for(self, tokens: int) -> int:
        return -(-tokens // self._capacity.page_size)
