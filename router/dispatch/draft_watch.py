"""Notices a drafter that never pays: one for which the scheduler has long chosen no drafts.

Pure. It counts rounds of rows that may draft, in windows of Steps, and reports the first window in
which almost none of them drafted. The scheduler's probes are such rounds too.
"""

from __future__ import annotations

from collections.abc import Mapping

from router.requests.record import LiveRequest
from router.scheduler.api import ScheduledBatch

WINDOW_STEPS = 512
"""Steps of a window; those without a round that may draft do not count."""
MAX_DRAFTING_SHARE = 0.05
"""Maximum share of rounds with drafts at which a drafter is reported; probes take about 0.02."""


class DraftWatch:
    """The rounds of the current window."""

    def __init__(self, drafter: str) -> None:
        self._drafter = drafter
        self._steps = self._rounds = self._drafting = 0
        self._reported = False

    def observe(self, batch: ScheduledBatch, records: Mapping[int, LiveRequest]) -> bool:
        """Count `batch`; true once, when a window with almost no drafts ends."""
        drafts = [
            max(run.draft, run.suffix)
            for run in batch.run
            if not run.prefill and run.id in records and records[run.id].request.speculate != 0
        ]
        if self._reported or not drafts:
            return False
        if self._steps == WINDOW_STEPS:
            self._steps = self._rounds = self._drafting = 0
        self._steps += 1
        self._rounds += len(drafts)
        self._drafting += sum(draft > 0 for draft in drafts)
        full = self._steps == WINDOW_STEPS
        self._reported = full and self._drafting <= MAX_DRAFTING_SHARE * self._rounds
        return self._reported

    def warning(self, acceptance_rate: float) -> str:
        """The line for the log; `acceptance_rate` is that of the drafts that were tried."""
        return (
            f"the drafter `{self._drafter}` does not pay: in the last {WINDOW_STEPS} steps only"
            f" {self._drafting / self._rounds:.1%} of the rounds drafted, and {acceptance_rate:.0%}"
            " of the drafts were accepted; --speculate 0 saves its memory, another draft model may"
            " be faster"
        )
