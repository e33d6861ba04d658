"""Requests that wait for their first service, by kind: those that only their arrival tells apart.

Estimates of requests of one kind differ only by when they were made. So an order that keeps them
by arrival loses nothing, and noise in what was learned lets no request overtake its older twin.
Decides no rank.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from math import floor, log

from router.scheduler.api import Job
from router.scheduler.row import Row

KIND_RATIO = 1.1
"""Ratio of the token counts that `near_kind` takes as equal."""

KindOf = Callable[[Job], Hashable]


def exact_kind(job: Job) -> Hashable:
    """Return what all estimates before the first service depend on."""
    return (_classes(job), job.prompt, job.max_new, job.expected)


def near_kind(job: Job) -> Hashable:
    """Return `exact_kind`, with token counts on a geometric grid of ratio `KIND_RATIO`."""
    hint = None if job.expected is None else _grid(job.expected)
    return (_classes(job), _grid(job.prompt), _grid(job.max_new), hint)


class WaitingTwins:
    """Rows that were not served yet, by kind and in order of arrival."""

    def __init__(self, kind: KindOf) -> None:
        self._kind = kind
        self._rows: dict[Hashable, dict[int, Row]] = {}

    def add(self, row: Row) -> None:
        """Add a row that has just arrived."""
        self._rows.setdefault(self._kind(row.job), {})[row.job.id] = row

    def discard(self, row: Row) -> None:
        """Remove a row that was served or ended, if it is here."""
        kind = self._kind(row.job)
        twins = self._rows.get(kind, {})
        if twins.get(row.job.id) is row:
            del twins[row.job.id]
            if not twins:
                del self._rows[kind]

    def of(self, row: Row) -> dict[int, Row]:
        """Return the waiting rows of its kind by id, oldest first. The caller must not change it.

        Rows that were started since are dropped from the head.
        """
        twins = self._rows.get(self._kind(row.job), {})
        while twins and (oldest := next(iter(twins.values()))).started:
            self.discard(oldest)
        return twins


def _classes(job: Job) -> Hashable:
    return job.priority, job.tenant, job.route, job.speculate


def _grid(tokens: float) -> int:
    return floor(log(max(1.0, tokens)) / log(KIND_RATIO))
