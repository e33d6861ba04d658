"""Builds one Batch: rows in the order of a policy, until rows, budget or pages run out.

Pages are reserved for the worst case of everything in flight, so a Step never runs out of memory,
and for a whole prompt before its first chunk, so that no row holds half of one idly.

Under memory pressure the higher rank gets the pages. A row that cannot grow takes them from the
lowest-ranked rows below it, which are swapped out, or evicted and later prefilled again. A row with
Steps in flight is not preempted, since its tokens are still to come: it is excluded until they have
completed. No row grows that is below a row that waits for pages.

A row whose next page is being computed by a prefill in flight waits for it, to share the page. A
row on the host is swapped in as soon as it could run, or there is room in addition to the rows that
do, and runs once that Step has completed: its KV is copied while others run. So the first row in
the order waits only for Steps in flight: its own, or the prefill of a shared prefix.

Decides no order and no draft length, and does not know where pages come from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from router.scheduler.api import DeviceCapacity, ScheduledRow
from router.scheduler.memory.kv_placement import KvPlacement
from router.scheduler.row import Row

InFlightStep = dict[int, tuple[Row, int]]
"""Rows of a Step by id, each with the maximum number of tokens that the Step emits for it."""


class BatchBuilder:
    """Takes rows and pages in `fill`; its lists are the Batch afterwards."""

    def __init__(
        self,
        capacity: DeviceCapacity,
        placement: KvPlacement,
        order: Sequence[Row],
        drafts: Mapping[int, int],
        in_flight: Iterable[Row],
        isolated: int | None = None,
        suffixes: Mapping[int, int] | None = None,
    ) -> None:
        """`drafts`: draft length by id, 0 for other rows. `in_flight`: rows that share pages.

        `isolated`: id of the only row that may run. `suffixes`: as `drafts`, by suffix decoding.
        """
        self._capacity = capacity
        self._isolated = isolated
        self._placement = placement
        self._order = order
        self._drafts, self._suffixes = drafts, suffixes or {}
        self._prefill_budget = capacity.prefill_tokens
        self._waiting_for_pages = False
        """Whether a row above waits for pages."""
        self._pages_in_progress = {hash for row in in_flight for hash in self._pending_prefix(row)}
        """Hashes of the pages that a prefill in flight, or in this Batch, fills."""
        self.moves = placement.begin_batch()
        self.run: list[ScheduledRow] = []
        self.step: InFlightStep = {}
        self.excluded: set[int] = set()
        """Ids that this Batch must not run: preempted, or about to be once Steps complete."""

    @property
    def running(self) -> dict[int, Row]:
        """The rows of `run` by id; rows that are only swapped in are not among them."""
        return {run.id: self.step[run.id][0] for run in self.run}

    def fill(self) -> None:
        """Schedule as many rows as possible, and swap in those that come next."""
        holders, closed = self._placement.rows_with_kv, False
        for place, row in enumerate(self._order):
            if closed and holders and not row.started:
                continue  # there may be thousands of them between two rows that hold KV
            full = len(self.run) == self._capacity.max_rows
            closed = (
                full or self._waiting_for_pages or not self._prefill_budget
            )  # to rows that hold nothing
            if (closed and not holders) or (full and not self._placement.rows_on_host):
                return
            holds = row.holds_kv
            holders -= holds
            if row.remaining_tokens <= 0 or row.job.id in self.excluded or row.swapping_in:
                continue
            if self._isolated not in (None, row.job.id):
                continue
            if row.host_slots:
                self._swap_in(row, len(self._order) if full else place)
            elif (holds and not full) or not closed:
                self._schedule(row, place)

    def _swap_in(self, row: Row, position: int) -> None:
        """Swap in a row, if that preempts only rows below `position`."""
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
        """Return whether a page that `row` could share is being computed."""
        wanted = row.shareable_prefix(self._capacity.page_size)
        matched = self._placement.pages.match_length(wanted) if self._pages_in_progress else 0
        return not self._pages_in_progress.isdisjoint(wanted[matched : matched + 1])

    def _admit(self, row: Row, position: int) -> bool:
        """Admit a row without pages, if there is room."""
        source = self._placement.begin_admission(row)
        short = self._missing_pages(row)
        # A new row leaves a page for each row above it, so that they do not preempt it at once.
        if not self._make_room(short + len(self.run), position):
            self._placement.cancel_admission(row)
            return False
        self._placement.pages.allocate(row.job.id, short)
        self._placement.finish_admission(row, source)
        return True

    def _reserve(self, row: Row, position: int) -> bool:
        """Allocate pages for the worst case of the next Step of a row that has pages."""
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
        forced = suffix = 0
        if not prefill:
            forced, suffix = row.job.forced, self._suffixes.get(row.job.id, 0)
            row.draft_length, row.suffix_length = draft, suffix
        self.run.append(ScheduledRow(row.job.id, prefill, draft, forced, suffix))
        self.step[row.job.id] = row, possible
        if row.hashes:
            self._pages_in_progress.update(self._pending_prefix(row))

    def _next_work(self, row: Row) -> tuple[int, int, int]:
        """Return what the next Step does for `row`: tokens fed, drafted, and emitted at most."""
        prefill = min(row.unprefilled, self._prefill_budget)
        if prefill:
            # The chunk that reaches the last known token emits one token, an earlier one none.
            return prefill, 0, int(prefill == row.unprefilled)
        draft = self._drafts.get(row.job.id, 0)
        return 0, draft, max(draft, row.job.forced, self._suffixes.get(row.job.id, 0)) + 1

    def _missing_pages(self, row: Row) -> int:
        """Return the pages that `row` lacks for all its Steps, with every draft accepted."""
        prefill, _, possible = self._next_work(row)
        reach = row.known_tokens + (1 if prefill else row.max_pending + possible)
        tokens = min(reach, row.job.max_kv_tokens)
        return self._placement.pages_for(tokens) - self._placement.pages.page_count(row.job.id)

    def _pending_prefix(self, row: Row) -> list[int]:
        return row.pending_prefix(self._capacity.page_size)

    def _make_room(self, needed: int, position: int) -> bool:
        """Free `needed` pages, by preempting rows below `position` if necessary and sufficient."""
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
        """Return rows below `position` to preempt for `needed` pages; None if there are too few."""
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
        """Yield rows below `position` that hold pages, lowest rank first.

        Rows with Steps in flight come last. A row that was excluded once has completed its Steps by
        the next Batch, so the wait ends however the order changes meanwhile.
        """
        for in_flight in (False, True):
            for index in range(len(self._order) - 1, position, -1):
                row = self._order[index]
                holds = (
                    self._placement.pages.page_count(row.job.id) and row.job.id not in self.excluded
                )
                if holds and (row.steps_in_flight > 0) is in_flight:
                    yield row
