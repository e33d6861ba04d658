"""The scheduler: `build` makes the one that a configuration names. Pure: no clock, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, Protocol

from router.scheduler.api import DeviceCapacity, Scheduler
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.estimation.length import LearnedLengths
from router.scheduler.planner import Planner
from router.scheduler.policies.baselines import Fcfs, Las, LengthSjf, SizeRanked
from router.scheduler.policies.laps import Laps, LapsOptions
from router.scheduler.policies.laps_paper import LapsPaper
from router.scheduler.policies.multilevel_queue import MultilevelQueue
from router.scheduler.policies.policy import Policy

POLICY_NAMES = ("laps-sd", "laps-sd-paper", "fcfs", "las", "sjf", "sjf-preemptive", "e-srpt")
"""What `Config.scheduler` may be."""
PATIENCE_ROUNDS = 8192
"""Rounds that `laps-sd` lets a request go without service, unless it is told seconds (ours)."""


class SchedulerOptions(Protocol):
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

    @property
    def laps_rank(self) -> str:
        """gittins, remaining or queues."""

    @property
    def laps_join(self) -> str:
        """Where a request enters: prior or first."""

    @property
    def laps_perception(self) -> str:
        """posterior or window."""

    @property
    def laps_width(self) -> float:
        """Relative deviation of the yield within which a request is perceptible."""

    @property
    def laps_lengths(self) -> str:
        """calibrated or plain."""

    @property
    def laps_memory(self) -> int:
        """Rounds that a request's acceptance remembers; 0 for all."""

    @property
    def laps_prior(self) -> float:
        """Rounds that the prior of a request's acceptance weighs."""

    @property
    def laps_alarm(self) -> float:
        """Threshold of the test for drift; 0 for none."""

    @property
    def laps_drafts(self) -> str:
        """adaptive or longest."""

    @property
    def laps_hysteresis(self) -> float:
        """Share by which an estimate rises without effect."""

    @property
    def laps_lock(self) -> float:
        """Share of its service after which a request is not displaced; 1 for never."""

    @property
    def laps_volume(self) -> float:
        """Weight of the pages held, when all are in use."""

    @property
    def laps_peak(self) -> bool:
        """Whether a request starts only if no one is expected to run out of pages later."""

    @property
    def laps_tail(self) -> float:
        """From 0, by size, to 1, by arrival."""

    @property
    def laps_fairness(self) -> float:
        """Weight of what a tenant received beyond others."""


def build(
    config: SchedulerOptions,
    capacity: DeviceCapacity,
    learned_state: Mapping[str, Any] | None = None,
) -> Scheduler:
    """The scheduler that `config` names, with nothing to do yet.

    `learned`: what an earlier one had learned. Raises ValueError for what makes no sense.
    """
    if config.scheduler not in POLICY_NAMES:
        raise ValueError(f"unknown scheduler {config.scheduler!r}")
    estimator = _estimator(config, capacity)
    if learned_state is not None:
        estimator.restore(learned_state)
    peak = config.scheduler == "laps-sd" and config.laps_peak
    adapt = config.laps_drafts == "adaptive"
    policy = _policy(config, capacity, estimator)
    return Planner(capacity, policy, estimator, peak=peak, adapt=adapt)


def round_seconds(capacity: DeviceCapacity) -> float:
    """Of one row alone with the longest draft, by the two figures that the shards measured."""
    return capacity.speculate * capacity.draft_token_seconds + capacity.verify_seconds


def _estimator(config: SchedulerOptions, capacity: DeviceCapacity) -> Estimator:
    """Published policies take lengths and the cost of a round as they are told."""
    if config.scheduler != "laps-sd":
        return Estimator(capacity, prior_rounds=config.laps_prior)
    plain = config.laps_lengths == "plain"
    return Estimator(
        capacity,
        LearnedLengths(raw_hints=plain),
        track_cost=not plain,
        memory_rounds=config.laps_memory or inf,
        drift_threshold=config.laps_alarm,
        prior_rounds=config.laps_prior,
    )


def _policy(config: SchedulerOptions, capacity: DeviceCapacity, estimator: Estimator) -> Policy:
    pace = round_seconds(capacity)
    first = config.laps_first_threshold or config.laps_window * pace
    patience = config.laps_patience
    levels = MultilevelQueue.geometric(config.laps_levels, config.laps_ratio, first, patience)
    one = MultilevelQueue((), patience, first)
    match config.scheduler:
        case "laps-sd-paper":
            return LapsPaper(estimator, levels, config.laps_window, config.laps_deviation)
        case "las":
            return Las(levels)
        case "sjf":
            return LengthSjf(one, estimator)
        case "sjf-preemptive":
            return LengthSjf(one, estimator, preemptive=True)
        case "e-srpt":
            return SizeRanked(one, estimator.remaining_seconds)
        case "fcfs":
            return Fcfs()
    waits = MultilevelQueue((), patience or PATIENCE_ROUNDS * pace, first)
    return Laps(estimator, levels, waits, _laps_options(config))


def _laps_options(config: SchedulerOptions) -> LapsOptions:
    return LapsOptions(
        rank=config.laps_rank,
        join=config.laps_join == "prior",
        perception=config.laps_perception,
        window=config.laps_window,
        deviation=config.laps_deviation,
        width=config.laps_width,
        hysteresis=config.laps_hysteresis,
        lock=config.laps_lock,
        volume=config.laps_volume,
        tail=config.laps_tail,
        fairness=config.laps_fairness,
    )
