"""Which request is blamed when the shards fail, so that none can take them down for good.

A failure leaves only suspects: the requests of the Steps in flight. One that has been a suspect at
`PROBED_AFTER` failures in a row, without a token in between, runs alone until it emits a token. A
request that was alone at the last of these failures is blamed, and is not resumed; all others go on
with exactly the tokens that they would have had. Pure: knows ids only, and no reason for a failure.
"""

from __future__ import annotations

from collections.abc import Collection

PROBED_AFTER = 2
"""Failures in a row from which a suspect runs alone; the first is likely not its fault."""


class Quarantine:
    """Failures in a row of each live request, by id."""

    def __init__(self) -> None:
        self._failures: dict[int, int] = {}

    @property
    def probed(self) -> int | None:
        """The only request that may run at present, the oldest suspect; None: all may."""
        return min(
            (id for id, count in self._failures.items() if count >= PROBED_AFTER), default=None
        )

    def shards_failed(self, in_flight: Collection[int]) -> int | None:
        """The shards failed with Steps of the live requests `in_flight`.

        Return the one to blame, which is forgotten here; None if it may be any of several.
        """
        for id in in_flight:
            self._failures[id] = self._failures.get(id, 0) + 1
        if len(in_flight) != 1:
            return None
        [alone] = in_flight
        if self._failures[alone] < PROBED_AFTER:
            return None
        self.clear(alone)
        return alone

    def clear(self, id: int) -> None:
        """A request has emitted a token or has ended; unknown ids are ignored."""
        self._failures.pop(id, None)
