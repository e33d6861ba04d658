"""What a router knows of the replicas, and which one it chooses. Pure: no Ray, no clock.

A replica reports its scheduler's estimates, and how many requests of each front it has received and
answered. What this front has sent, or got the answer of, beyond those numbers is not in the
estimates yet: it is added to them, or taken from them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_KNOWN_PREFIXES = 64
"""Prefixes remembered for each replica, the most recent ones."""
FIRST_SECONDS = 1.0
"""Assumed work of a request while no replica has an estimate."""


@dataclass(frozen=True, slots=True)
class Report:
    """A replica's last report."""

    live: int = 0
    work: float = 0.0
    """Estimated device seconds that its live requests need."""
    wait: float = 0.0
    """Estimated seconds until one more request is served."""
    received: Mapping[str, int] = field(default_factory=dict)
    """Requests received so far, by front."""
    answered: Mapping[str, int] = field(default_factory=dict)
    """Of these, those that have ended."""


@dataclass(slots=True)
class ReplicaView:
    """What one front knows of one replica; owned by its router."""

    report: Report = field(default_factory=Report)
    sent: int = 0
    """Requests that this front has sent there so far."""
    ended: int = 0
    """Of these, those that have ended."""
    prefixes: OrderedDict[bytes, None] = field(default_factory=OrderedDict)

    def change(self, front: str) -> int:
        """Live requests that are not in the report, less those that have ended since."""
        sent = self.sent - self.report.received.get(front, 0)
        ended = self.ended - self.report.answered.get(front, 0)
        return max(0, sent) - max(0, ended)

    def cost(self, front: str, prefix: bytes, prefix_seconds: float) -> tuple[float, int]:
        """Estimated wait, with a missing prefix counted as wait; then the number of requests.

        A replica without a wait has a free row, which the first request that is added takes.
        """
        report, more = self.report, self.change(front)
        queued = max(0, more - 1) if report.wait == 0 else more
        each = report.work / report.live if report.live and report.work else FIRST_SECONDS
        missing = prefix_seconds if prefix and prefix not in self.prefixes else 0.0
        return max(0.0, report.wait + queued * each) + missing, report.live + more

    def add(self, prefix: bytes) -> None:
        """Count a request that is sent there."""
        self.sent += 1
        if prefix:
            self.prefixes[prefix] = None
            self.prefixes.move_to_end(prefix)
        if len(self.prefixes) > MAX_KNOWN_PREFIXES:
            self.prefixes.popitem(last=False)


class Replicas:
    """The views of all replicas, by id, and the turn that breaks ties."""

    def __init__(self, prefix_seconds: float) -> None:
        """`prefix_seconds`: the wait that a replica with the prefix may have more."""
        self._prefix_seconds = prefix_seconds
        self._views: dict[str, ReplicaView] = {}
        self._turn = 0

    def update(self, reports: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the last reports of all replicas; forget those that are gone."""
        self._views = {name: self._views.get(name, ReplicaView()) for name in reports}
        for name, report in reports.items():
            if report:
                self._views[name].report = Report(**report)

    def ranked(self, front: str, prefix: bytes) -> Sequence[str]:
        """Return the ids, the least estimated wait first. Ties take turns."""
        names = list(self._views)
        self._turn += 1
        turn = self._turn % len(names) if names else 0
        costs = {
            name: view.cost(front, prefix, self._prefix_seconds)
            for name, view in self._views.items()
        }
        return sorted(names[turn:] + names[:turn], key=costs.__getitem__)

    def add(self, name: str, prefix: bytes) -> None:
        """Count a request that is sent to `name`."""
        if name in self._views:
            self._views[name].add(prefix)

    def end(self, name: str) -> None:
        """Count a request of `name` that has ended."""
        if name in self._views:
            self._views[name].ended += 1
