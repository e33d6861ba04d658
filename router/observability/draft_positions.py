"""How many draft tokens were proposed and accepted at each position of a draft.

Counted per draft by its length and by the number of accepted tokens, which costs the same for every
length; the counts per position are their sums from the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector


class DraftPositions(Collector):
    """Counts for drafts of up to `max_length` tokens; positions are numbered from 0."""

    def __init__(self, max_length: int) -> None:
        self._drafted = [0] * (max_length + 1)
        """Number of drafts with each length."""
        self._accepted = [0] * (max_length + 1)
        """Number of drafts with each number of accepted tokens."""

    def add(self, drafted: int, accepted: int) -> None:
        """Count one draft of `drafted` tokens, of which the first `accepted` were accepted."""
        self._drafted[drafted] += 1
        self._accepted[accepted] += 1

    def collect(self) -> Iterator[Metric]:
        """The two counters, with a series for each position."""
        yield _family("tgi_speculative_position_drafted", "proposed", self._drafted)
        yield _family("tgi_speculative_position_accepted", "accepted", self._accepted)


def _family(name: str, what: str, by_length: Sequence[int]) -> Metric:
    family = CounterMetricFamily(name, f"Draft tokens {what}, by position", labels=["position"])
    for position, count in enumerate(_at_least(by_length)):
        family.add_metric([str(position)], count)
    return family


def _at_least(by_length: Sequence[int]) -> list[int]:
    """For each position, the number of drafts that reach it: those that are longer."""
    return list(accumulate(reversed(by_length[1:])))[::-1]
