"""How many threads compute a Step, by the number of tokens that it feeds.

A Step of one token is bound by memory, which one thread may use up alone; one of many tokens gains
from every core. So one thread and all of them are timed on Steps of one and of several rows. More
threads must gain `MIN_GAIN`: equal ones only get in each other's way when the machine is busy.
Knows an engine only as something that executes Steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isqrt

import torch

from shard.model.product_times import AcrossRanks
from shard.warmup.busy import BusyMachine
from shard.warmup.step_costs import StepExecutor, decode_seconds

MANY_ROWS = 8
"""Rows of the larger of the two Steps that are timed."""
MIN_GAIN = 0.05
_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class ThreadRule:
    """One thread below `many_from` tokens, `many` threads from there on."""

    many: int
    many_from: float

    def threads(self, tokens: int) -> int:
        """Number of threads for a Step that feeds `tokens` tokens."""
        return self.many if tokens >= self.many_from else 1


class StepThreads:
    """Sets the threads of each Step by `rule`, and to one while the machine is busy."""

    def __init__(self, rule: ThreadRule) -> None:
        self.rule = rule
        self._busy = BusyMachine()

    def apply(self, tokens: int, now: float) -> None:
        """Set torch's number of threads, which takes long enough to be avoided if it is right."""
        count = 1 if self._busy.is_busy(now) else self.rule.threads(tokens)
        if torch.get_num_threads() != count:
            torch.set_num_threads(count)

    def record(self, tokens: int, seconds: float, now: float) -> None:
        """A Step that fed `tokens` tokens with the threads applied has taken `seconds`."""
        if self.rule.threads(tokens) > 1:
            self._busy.record(tokens, seconds, torch.get_num_threads() > 1, now)


def measure_threads(
    engine: StepExecutor, max_rows: int, as_before: AcrossRanks = float
) -> ThreadRule:
    """Time an engine that holds no rows, with one thread and with as many as torch has now.

    `as_before` turns measured seconds into those of the first start.
    """
    many, sizes = torch.get_num_threads(), (1, min(MANY_ROWS, max_rows))
    alone: dict[int, float] = {}
    together: dict[int, float] = {}
    for _ in range(_ROUNDS):
        for threads, seconds in ((many, together), (1, alone)):
            torch.set_num_threads(threads)
            for rows in sizes:
                measured = as_before(decode_seconds(engine, rows))
                seconds[rows] = min(seconds.get(rows, inf), measured)
    gains = [together[rows] < (1 - MIN_GAIN) * alone[rows] for rows in sizes]
    return choose_rule(many, *gains)


def choose_rule(many: int, for_one: bool, for_several: bool) -> ThreadRule:
    """The rule if `many` threads gain for one row, and for `MANY_ROWS`.

    If only for several, the limit is half way by ratio. If only for one, several rows decide,
    because a wrong choice costs most there.
    """
    if not for_several:
        return ThreadRule(many, inf)
    return ThreadRule(many, 1 if for_one else 1 + isqrt(MANY_ROWS))
