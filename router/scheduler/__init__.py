"""The scheduler: `build` makes the one that a configuration names. Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.scheduler.api import DeviceCapacity, Scheduler
from router.scheduler.config import SchedulerConfig
from router.scheduler.planner import Planner
from router.scheduler.policies import POLICIES


def build(
    config: SchedulerConfig,
    capacity: DeviceCapacity,
    learned_state: Mapping[str, Any] | None = None,
) -> Scheduler:
    """Return the scheduler that `config` names, with no requests yet.

    `learned_state`: what an earlier one learned. Raises ValueError for an unknown policy, for
    parameters that make no sense, and for a state that is not one.
    """
    if config.scheduler not in POLICIES:
        raise ValueError(f"unknown scheduler {config.scheduler!r}")
    policy, estimator = POLICIES[config.scheduler].build(config, capacity)
    if learned_state is not None:
        estimator.restore(learned_state)
    return Planner(capacity, policy, estimator, adapt=config.laps_drafts == "adaptive")
