"""Which requests are suspected of making the shards fail, and which of them is given up. Pure.

A failure makes every request that ran then a suspect. Suspects run alone, one after the other,
each until it has decoded a token: one that fails alone is the cause, and the others are cleared. A
request that fails in three runs in a row, and so has survived MAX_RESTARTS restarts, is given up.
What a failure is, and what becomes of a request that is given up, is not known here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

MAX_RESTARTS = 2
"""Restarts in a row for which a request may be in the batch and still run again."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The suspects: for each id the failures in a row during which it ran, at least 1."""

    failures: Mapping[int, int] = field(default_factory=dict)

    @property
    def on_trial(self) -> int | None:
        """The id of the request that has to run alone; None if all may run.

        The one with the most failures, so that a cause is found before others run with it.
        """
        return max(self.failures, key=lambda id: (self.failures[id], -id), default=None)

    @property
    def given_up(self) -> frozenset[int]:
        """The ids of requests that must not run again."""
        return frozenset(id for id, count in self.failures.items() if count > MAX_RESTARTS)

    def after_failure(self, running: Collection[int]) -> Quarantine:
        """The shards have failed while the requests `running` were in Steps in flight."""
        return Quarantine({**self.failures, **{id: self.failures.get(id, 0) + 1 for id in running}})

    def without(self, ids: Collection[int]) -> Quarantine:
        """The requests `ids` have ended, or have decoded a token: they are no suspects."""
        if self.failures.keys().isdisjoint(ids):
            return self
        return Quarantine({id: count for id, count in self.failures.items() if id not in ids})
