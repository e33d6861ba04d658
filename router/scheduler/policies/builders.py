"""What the builders of the policies share: queues and estimates from the configuration.

A builder turns the configuration and the device's measured speed into a policy and the estimator
that it reads. Times have no fixed defaults: they are multiples of one round as it was measured.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from router.scheduler.api import DeviceCapacity
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.policies.multilevel_queue import MultilevelQueue
from router.scheduler.policies.policy import Policy

if TYPE_CHECKING:  # the configuration lists the policies, so it imports them
    from router.scheduler.config import SchedulerConfig

Builder = Callable[["SchedulerConfig", DeviceCapacity], tuple[Policy, Estimator]]
"""Builds a policy with nothing to order yet, and the estimator that the planner teaches.

Raises ValueError for parameters that make no sense.
"""


def round_seconds(capacity: DeviceCapacity) -> float:
    """Seconds of a round of one row with the longest draft, as measured: n * T_SSM + T_LLM."""
    return capacity.speculate * capacity.draft_token_seconds + capacity.verify_seconds


def first_threshold(config: SchedulerConfig, capacity: DeviceCapacity) -> float:
    """Sup_1 in seconds: as configured, or gamma rounds."""
    return config.laps_first_threshold or config.laps_window * round_seconds(capacity)


def level_queue(
    config: SchedulerConfig, capacity: DeviceCapacity, estimator: Estimator
) -> MultilevelQueue:
    """K levels with geometric thresholds; rows age only with a configured patience."""
    first = first_threshold(config, capacity)
    return MultilevelQueue.geometric(
        config.laps_levels,
        config.laps_ratio,
        first,
        config.laps_patience,
        estimator.seconds_alone,
    )


def single_queue(
    config: SchedulerConfig, estimator: Estimator, default_patience: float | None = None
) -> MultilevelQueue:
    """One level, for a rank and ageing.

    `default_patience`: seconds, unless others are configured; None: no ageing.
    """
    patience = config.laps_patience or default_patience
    return MultilevelQueue((), patience, estimator.seconds_alone)


def published_estimator(config: SchedulerConfig, capacity: DeviceCapacity) -> Estimator:
    """Estimates as published policies make them: lengths and costs as predicted, no forgetting."""
    return Estimator(capacity, prior_rounds=config.laps_prior)
