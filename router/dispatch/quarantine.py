"""What is suspected of making the shards fail, and what of it is given up. Pure.

A failure makes every request that ran then a suspect. Suspects run alone, one after the other,
each until it has decoded a token: one that fails alone is the cause, and the others are cleared. A
request that fails in three runs in a row, and so has survived MAX_RESTARTS restarts, is given up.
Grammars that are being prepared are treated in the same way. What a failure is, and what becomes
of what is given up, is not known here.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

MAX_RESTARTS = 2
"""Restarts in a row for which a request may be in the batch and still run again."""


@dataclass(frozen=True, slots=True)
class Quarantine(Generic[Key]):
    """The suspects: for each one the failures in a row during which it ran, at least 1."""

    failures: Mapping[Key, int] = field(default_factory=dict)
    """In the order in which they became suspects."""

    @property
    def on_trial(self) -> Key | None:
        """What has to run alone; None if all may run.

        The one with the most failures, so that a cause is found before others run with it.
        """
        return next(iter(self.by_failures()), None)

    def by_failures(self) -> Sequence[Key]:
        """The suspects in the order of their trials: those with the most failures first."""
        return sorted(self.failures, key=lambda key: -self.failures[key])

    @property
    def given_up(self) -> frozenset[Key]:
        """What must not run again."""
        return frozenset(key for key, count in self.failures.items() if count > MAX_RESTARTS)

    def after_failure(self, running: Iterable[Key]) -> Quarantine[Key]:
        """The shards have failed while `running` ran; among equals, the first is tried first."""
        counts = {key: self.failures.get(key, 0) + 1 for key in running}
        return Quarantine({**self.failures, **counts})

    def without(self, keys: Collection[Key]) -> Quarantine[Key]:
        """What has ended, or has run without a failure, is no suspect."""
        if self.failures.keys().isdisjoint(keys):
            return self
        return Quarantine({key: n for key, n in self.failures.items() if key not in keys})
