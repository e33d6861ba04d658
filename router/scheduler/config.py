"""The scheduler's configuration: the policy, and the parameters of LAPS-SD.

Each parameter is declared once, with default, bounds and help, and read where it is used. Names
follow arXiv 2505.17074. Standard library only: the launcher imports this too.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.options import check_bounds, option
from router.scheduler.memory.kv_placement import PREEMPTION_MODES
from router.scheduler.policies import POLICIES


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Which policy orders the requests, and with which parameters."""

    scheduler: str = option(
        "laps-sd",
        "scheduling policy: "
        + "; ".join(f"{name}, {policy.summary}" for name, policy in POLICIES.items()),
        choices=tuple(POLICIES),
    )
    laps_levels: int = option(
        4, "K, the number of queues (the paper's best: 6 at 10 requests, 4 at 30)", above=0
    )
    laps_ratio: float = option(2.0, "M, ratio of neighbouring queue thresholds", above=1)
    laps_first_threshold: float | None = option(
        None,
        "Sup_1, seconds of service that a request may take in the first queue; default:"
        " laps-window rounds, as measured at start",
        above=0,
    )
    laps_window: int = option(
        4, "gamma, rounds over which the acceptance rate must be stable", above=0
    )
    laps_deviation: float = option(
        0.08, "delta, maximum standard deviation of the windowed acceptance rate", at_least=0
    )
    laps_patience: float | None = option(
        None,
        "seconds after which a request is served before all others until it ends, but not before"
        " ten times the service that it is expected to need; default: 30 for laps-sd, and never"
        " for the other policies",
        above=0,
    )
    laps_rank: str = option(
        "gittins",
        "order of laps-sd: by the Gittins index of the remaining time, by its mean, or in the"
        " paper's queues",
        choices=("gittins", "remaining", "queues"),
    )
    laps_join: str = option(
        "prior",
        "queue that a request enters: that of its prior estimate, or the first (the paper)",
        choices=("prior", "first"),
    )
    laps_perception: str = option(
        "posterior",
        "when a request is perceptible: while its tokens per round are known well enough, or once"
        " its acceptance was stable over a window (the paper)",
        choices=("posterior", "window"),
    )
    laps_width: float = option(
        0.2,
        "maximum relative deviation of the tokens per round of a perceptible request",
        above=0,
    )
    laps_lengths: str = option(
        "calibrated",
        "predicted lengths and the cost of a round: corrected by what was served, or taken as they"
        " are (the paper)",
        choices=("calibrated", "plain"),
    )
    laps_memory: int = option(
        64,
        "rounds that the acceptance of a request remembers, less after a drift; 0 for all of them"
        " (the paper)",
        at_least=0,
    )
    laps_prior: float = option(
        8.0, "weight in rounds of the acceptance of all requests in the estimate for one", above=0
    )
    laps_drafts: str = option(
        "adaptive",
        "draft lengths under any policy: those with the most tokens per second, or always the"
        " longest (the paper)",
        choices=("adaptive", "longest"),
    )
    laps_tail: float = option(
        0.0, "from 0, least mean latency, to 1, order of arrival", at_least=0, at_most=1
    )
    laps_fairness: float = option(
        0.0,
        "weight of the service that a tenant received beyond the least served tenant",
        at_least=0,
    )
    preemption: str = option(
        "auto",
        "how a preempted request gives up its pages: the cheaper way, or always this one",
        choices=PREEMPTION_MODES,
    )
    scheduler_state: str | None = option(
        None,
        "file that keeps the learned lengths and acceptance over a restart; `none` for no file;"
        " default: named after the model in $XDG_STATE_HOME/text-generation-laps",
    )

    def check(self) -> None:
        """Raise ValueError for the first parameter that is outside its bounds."""
        check_bounds(self)
