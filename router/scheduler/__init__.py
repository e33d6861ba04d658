"""The scheduler: `build` makes the one that a configuration names. Pure: no clock, no I/O."""

from __future__ import annotations

from typing import Protocol

from router.scheduler.base import Capacity, Scheduler
from router.scheduler.baselines import Fcfs, Las, LengthSjf
from router.scheduler.laps import Laps
from router.scheduler.levels import Levels
from router.scheduler.planner import Planner
from router.scheduler.policy import Policy


class Config(Protocol):
    """What a scheduler is built from; the router's configuration has these fields."""

    @property
    def scheduler(self) -> str:
        """laps-sd, fcfs, las or sjf."""

    @property
    def laps_levels(self) -> int:
        """K."""

    @property
    def laps_ratio(self) -> float:
        """M."""

    @property
    def laps_first_threshold(self) -> float:
        """Sup_1 in seconds."""

    @property
    def laps_window(self) -> int:
        """gamma in rounds."""

    @property
    def laps_deviation(self) -> float:
        """delta."""

    @property
    def laps_patience(self) -> float:
        """Seconds without service after which a request is served before all others."""


def build(config: Config, capacity: Capacity) -> Scheduler:
    """The scheduler that `config` names, with nothing to do yet. Raises ValueError."""
    return Planner(capacity, _policy(config, capacity))


def _policy(config: Config, capacity: Capacity) -> Policy:
    levels = Levels.geometric(
        config.laps_levels, config.laps_ratio, config.laps_first_threshold, config.laps_patience
    )
    match config.scheduler:
        case "laps-sd":
            return Laps(capacity, levels, config.laps_window, config.laps_deviation)
        case "las":
            return Las(levels)
        case "sjf":
            return LengthSjf(Levels((), config.laps_patience, config.laps_first_threshold))
        case "fcfs":
            return Fcfs()
        case unknown:
            raise ValueError(f"unknown scheduler {unknown!r}")
