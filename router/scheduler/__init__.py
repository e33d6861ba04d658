"""The scheduler: `build` makes the one that a configuration names. Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from router.scheduler.base import Capacity, Scheduler
from router.scheduler.baselines import Esrpt, Fcfs, Las, LengthSjf
from router.scheduler.estimate import Estimator
from router.scheduler.levels import Levels
from router.scheduler.paper import Paper
from router.scheduler.planner import Planner
from router.scheduler.policy import Policy

NAMES = ("laps-sd", "laps-sd-paper", "fcfs", "las", "sjf", "sjf-preemptive", "e-srpt")
"""What `Config.scheduler` may be."""


class Config(Protocol):
    """What a scheduler is built from; the router's configuration has these fields."""

    @property
    def scheduler(self) -> str:
        """One of `NAMES`."""

    @property
    def laps_levels(self) -> int:
        """K."""

    @property
    def laps_ratio(self) -> float:
        """M."""

    @property
    def laps_first_threshold(self) -> float | None:
        """Sup_1 in seconds; None: gamma rounds as the shards measured them."""

    @property
    def laps_window(self) -> int:
        """gamma in rounds."""

    @property
    def laps_deviation(self) -> float:
        """delta."""

    @property
    def laps_patience(self) -> float | None:
        """Seconds without service after which a request is served before all others."""


def build(
    config: Config, capacity: Capacity, learned: Mapping[str, Any] | None = None
) -> Scheduler:
    """The scheduler that `config` names, with nothing to do yet.

    `learned`: what an earlier one had learned. Raises ValueError for what makes no sense.
    """
    estimator = Estimator(capacity)
    if learned is not None:
        estimator.restore(learned)
    return Planner(capacity, _policy(config, capacity, estimator), estimator)


def round_seconds(capacity: Capacity) -> float:
    """Of one row alone with the longest draft, by the two figures that the shards measured."""
    return capacity.speculate * capacity.draft_token_seconds + capacity.verify_seconds


def _policy(config: Config, capacity: Capacity, estimator: Estimator) -> Policy:
    first = config.laps_first_threshold or config.laps_window * round_seconds(capacity)
    patience = config.laps_patience
    levels = Levels.geometric(config.laps_levels, config.laps_ratio, first, patience)
    one = Levels((), patience, first)
    match config.scheduler:
        case "laps-sd" | "laps-sd-paper":
            return Paper(estimator, levels, config.laps_window, config.laps_deviation)
        case "las":
            return Las(levels)
        case "sjf":
            return LengthSjf(one, estimator)
        case "sjf-preemptive":
            return LengthSjf(one, estimator, preemptive=True)
        case "e-srpt":
            return Esrpt(one, estimator)
        case "fcfs":
            return Fcfs()
        case unknown:
            raise ValueError(f"unknown scheduler {unknown!r}")
