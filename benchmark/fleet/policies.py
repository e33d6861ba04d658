"""Which replica gets a request: the policies, over what a gateway knows.

Decides purely from views: what each replica reported last, and what this gateway has sent there
since. Knows neither the true length of a request nor the clock. Ties go to the replica that comes
next in turn, so that idle replicas are used evenly.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

MAX_KNOWN_PREFIXES = 64
"""Prefixes that a gateway remembers for each replica, the most recent ones."""


@dataclass(slots=True)
class ReplicaView:
    """What a gateway knows of one replica; its owner is the gateway."""

    rows: int
    """Requests that it serves at once."""
    live: int = 0
    """Requests that have not ended: reported, and sent since."""
    work: float = 0.0
    """Estimated device seconds that they still need."""
    prefixes: OrderedDict[int, None] = field(default_factory=OrderedDict)
    """Prefixes of the requests sent there, the most recent one last."""

    @property
    def wait(self) -> float:
        """Estimated seconds until one more request has a row, if rows end at an even rate."""
        more = self.live - self.rows + 1
        return more * self.work / self.live if more > 0 else 0.0

    def report(self, live: int, work: float) -> None:
        """Replace the counts by those of a report."""
        self.live, self.work = live, work

    def sent(self, prefix: int, seconds: float) -> None:
        """Count a request, which is expected to need `seconds` of device time."""
        self.live += 1
        self.work += seconds
        self.prefixes[prefix] = None
        self.prefixes.move_to_end(prefix)
        if len(self.prefixes) > MAX_KNOWN_PREFIXES:
            self.prefixes.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a policy knows of a request."""

    prefix: int
    """Id of the shared beginning of its prompt."""
    prefix_seconds: float
    """Device seconds that computing the prefix takes."""


class Chooser:
    """Chooses with one policy; it owns the turn and the random numbers."""

    def __init__(self, policy: str, first: int = 0) -> None:
        """`first`: the replica whose turn is first. Raises KeyError for an unknown policy."""
        self._choose = POLICIES[policy]
        self.random = Random(first)  # noqa: S311 - no secret is drawn
        self.turn = first - 1

    def choose(self, views: Sequence[ReplicaView], arrival: Arrival) -> int:
        """Return the index of the replica that gets the request."""
        self.turn = (self.turn + 1) % len(views)
        return self._choose(self, views, arrival)

    def least(
        self, views: Sequence[ReplicaView], cost: Callable[[ReplicaView], tuple[float, ...]]
    ) -> int:
        """Return the index of the view of least cost."""
        count = len(views)
        in_turn = (place % count for place in range(self.turn, self.turn + count))
        return min(in_turn, key=lambda index: cost(views[index]))


def round_robin(chooser: Chooser, views: Sequence[ReplicaView], arrival: Arrival) -> int:
    """One replica after the other."""
    return chooser.turn


def least_queue(chooser: Chooser, views: Sequence[ReplicaView], arrival: Arrival) -> int:
    """The replica with the fewest live requests."""
    return chooser.least(views, lambda view: (view.live,))


def least_work(chooser: Chooser, views: Sequence[ReplicaView], arrival: Arrival) -> int:
    """The replica with the least estimated work."""
    return chooser.least(views, lambda view: (view.work,))


def least_wait(chooser: Chooser, views: Sequence[ReplicaView], arrival: Arrival) -> int:
    """The replica with the least estimated wait, then with the fewest live requests."""
    return chooser.least(views, lambda view: (view.wait, view.live))


def prefix_affinity(chooser: Chooser, views: Sequence[ReplicaView], arrival: Arrival) -> int:
    """The same, where computing a prefix that the replica does not have counts as wait."""

    def cost(view: ReplicaView) -> tuple[float, ...]:
        missing = 0.0 if arrival.prefix in view.prefixes else arrival.prefix_seconds
        return view.wait + missing, view.live

    return chooser.least(views, cost)


def two_queues(chooser: Chooser, views: Sequence[ReplicaView], arrival: Arrival) -> int:
    """The shorter queue of two random replicas (power of two choices, Mitzenmacher 2001)."""
    two = chooser.random.sample(range(len(views)), min(2, len(views)))
    return min(two, key=lambda index: views[index].live)


POLICIES: dict[str, Callable[[Chooser, Sequence[ReplicaView], Arrival], int]] = {
    "round robin": round_robin,
    "two random queues": two_queues,
    "least queue": least_queue,
    "least work": least_work,
    "least wait": least_wait,
    "prefix affinity": prefix_affinity,
}
"""By name."""
