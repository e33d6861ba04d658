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
from collections.abc import Iterable, Iterator, Mapping, Sequence

from router.scheduler.api import DeviceCapacity, ScheduledRow
from router.scheduler.memory.kv_placement import KvPlacement
from router.scheduler.row import Row

InFlightStep = dict[int, tuple[Row, int]]
"""Rows of a Step, each with the most tokens that the Step may emit for it."""


class BatchBuilder:
    """Takes rows and pages while `fill` runs; its lists are the Batch afterwards."""

    def __init__(
        self,
        capacity: DeviceCapacity,
        placement: KvPlacement,
        order: Sequence[Row],
        drafts: Mapping[int, int],
        in_flight: Iterable[Row],
    ) -> None:
        """`drafts`: draft length by id; 0 for rows that it does not name. `flying`: in flight."""
        self._capacity = capacity
        self._placement = placement
        self._order = order
        self._drafts = drafts
        self._prefill_budget = capacity.prefill_tokens
        self._waiting_for_pages = False
        """A row above waits for pages."""
        self._pages_in_progress = {hash for row in in_flight for hash in self._pending_prefix(row)}
        """Names of pages that a prefill in flight, or in this Batch, fills."""
        self.moves = placement.begin_batch()
        self.run: list[ScheduledRow] = []
        self.step: InFlightStep = {}
        self.excluded: set[int] = set()
        """Rows that this Batch must not name: displaced, or to be once they have landed."""

    @property
    def running(self) -> dict[int, Row]:
        """The rows of `run` by id; those that only get back their KV are not among them."""
        return {run.id: self.step[run.id][0] for run in self.run}

    def fill(self) -> None:
        """Serve as many rows as possible, and bring back the KV of those that come next."""
        holders, closed = self._placement.rows_with_kv, False
        for place, row in enumerate(self._order):
            if closed and holders and not row.started:
                continue  # there may be thousands of them between two that hold KV
            full = len(self.run) == self._capacity.max_rows
            closed = (
                full or self._waiting_for_pages or not self._prefill_budget
            )  # to those that hold nothing
            if (closed and not holders) or (full and not self._placement.rows_on_host):
                return
            holds = row.holds_kv
            holders -= holds
            if row.remaining_tokens <= 0 or row.job.id in self.excluded or row.swapping_in:
                continue
            if row.host_slots:
                self._swap_in(row, len(self._order) if full else place)
            elif (holds and not full) or not closed:
                self._schedule(row, place)

    def _swap_in(self, row: Row, position: int) -> None:
        """Bring back the KV of a row, if that displaces none but rows below `place`."""
        if not self._waiting_for_pages and self._admit(row, position):
            row.swap_in()
            self.step[row.job.id] = row, 0

    def _schedule(self, row: Row, position: int) -> None:
        if row.unprefilled and not self._prefill_budget:
            return
        if self._placement.pages.page_count(row.job.id):
            ready = self._reserve(row, position)
        else:
            ready = (
                not self._waiting_for_pages
                and not self._awaits_prefix(row)
                and self._admit(row, position)
            )
        if ready:
            self._schedule_row(row)

    def _awaits_prefix(self, row: Row) -> bool:
        """Whether a page that `row` could share is on its way."""
        wanted = row.shareable_prefix(self._capacity.page_size)
        matched = self._placement.pages.match_length(wanted) if self._pages_in_progress else 0
        return not self._pages_in_progress.isdisjoint(wanted[matched : matched + 1])

    def _admit(self, row: Row, position: int) -> bool:
        """Bring in a row without pages, if there is room."""
        source = self._placement.begin_admission(row)
        short = self._missing_pages(row)
        # A row that starts leaves a page for each row above it, lest they displace it at once.
        if not self._make_room(short + len(self.run), position):
            self._placement.cancel_admission(row)
            return False
        self._placement.pages.allocate(row.job.id, short)
        self._placement.finish_admission(row, source)
        return True

    def _reserve(self, row: Row, position: int) -> bool:
        """Own pages for the worst case of the next Step of a row that has some."""
        short = self._missing_pages(row)
        if short <= 0:
            return True
        if not self._make_room(short, position):
            return False
        self._placement.grow(row, short)
        return True

    def _schedule_row(self, row: Row) -> None:
        prefill, draft, possible = self._next_work(row)
        self._prefill_budget -= prefill
        row.schedule(prefill, possible)
        if not prefill:
            row.draft_length = draft
        self.run.append(ScheduledRow(row.job.id, prefill, draft))
        self.step[row.job.id] = row, possible
        if row.hashes:
            self._pages_in_progress.update(self._pending_prefix(row))

    def _next_work(self, row: Row) -> tuple[int, int, int]:
        """What the next Step does for `row`: tokens fed, drafted, and emitted at most."""
        prefill = min(row.unprefilled, self._prefill_budget)
        if prefill:
            # The chunk that reaches the last known token emits one token, an earlier one none.
            return prefill, 0, int(prefill == row.unprefilled)
        draft = self._drafts.get(row.job.id, 0)
        return 0, draft, draft + 1

    def _missing_pages(self, row: Row) -> int:
        """Pages that `row` lacks for everything in flight and its next Step, fully accepted."""
        prefill, _, possible = self._next_work(row)
        reach = row.known_tokens + (1 if prefill else row.max_pending + possible)
        tokens = min(reach, row.job.prompt + row.job.max_new)
        return self._placement.pages_for(tokens) - self._placement.pages.page_count(row.job.id)

    def _pending_prefix(self, row: Row) -> list[int]:
        return row.pending_prefix(self._capacity.page_size)

    def _make_room(self, needed: int, position: int) -> bool:
        """Have `want` free pages, by displacing rows below `place` if need be and of use."""
        if not self._waiting_for_pages:
            chosen = self._choose_victims(needed, position)
            if chosen is not None:
                self.excluded.update(row.job.id for row in chosen)
                if not any(row.steps_in_flight for row in chosen):
                    for row in chosen:
                        self._placement.preempt(row)
                    return True
        self._waiting_for_pages = True
        return False

    def _choose_victims(self, needed: int, position: int) -> list[Row] | None:
        """Rows below `place` without whom `want` pages are free; None where that is too little."""
        free, chosen, dropped = self._placement.pages.free, list[Row](), Counter[int]()
        holders = self._preemption_candidates(position)
        while free < needed:
            row = next(holders, None)
            if row is None:
                return None
            chosen.append(row)
            free += self._placement.pages.pages_freed_by(row.job.id, dropped)
        return chosen

    def _preemption_candidates(self, position: int) -> Iterator[Row]:
        """Rows below `place` that hold pages, lowest rank first: those that can go now.

        Those still in flight come after all others. Whoever was passed over once has landed by
        the next Batch, so the wait ends however the order changes meanwhile.
        """
        for flying in (False, True):
            for index in range(len(self._order) - 1, position, -1):
                row = self._order[index]
                holds = (
                    self._placement.pages.page_count(row.job.id) and row.job.id not in self.excluded
                )
                if holds and (row.steps_in_flight > 0) is flying:
                    yield row
