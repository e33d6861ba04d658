"""How much device time a request still needs: the execution time of arXiv 2505.17074.

    T = L / (n*A + 1) * (n*T_SSM + T_LLM)

with the tokens left for L, the request's own acceptance for n*A + 1, and its remaining prefill
added. With `track_cost` the cost of a round is corrected by what recent rounds took. Owns what is
learned over all requests, and how far off its estimates were. Decides no order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from math import ceil, exp, inf
from typing import Any

from router.scheduler.acceptance import (
    GLOBAL_MEMORY_ROUNDS,
    PRIOR_ROUNDS,
    AcceptanceCurve,
    PageHinkleyTest,
)
from router.scheduler.api import DeviceCapacity, Job, Outcome, RowEnded
from router.scheduler.estimation.length import LearnedLengths, LengthPredictor
from router.scheduler.estimation.lognormal import MAX_DEVIATIONS, LogNormal
from router.scheduler.row import Row

STATE_VERSION = 1
"""Version of the learned state."""
ERROR_WINDOW = 256
"""Number of requests over which the error is averaged."""
COST_RATIO_WEIGHT = 0.02
"""Weight of one row's round in the moving average of the cost of a round."""
ROUNDS_AFTER_DRIFT = 4.0
"""Rounds that a request remembers after a drift of its acceptance."""
NATURAL_ENDS = (RowEnded.EOS, RowEnded.LENGTH, RowEnded.STOP)


def execution_time(
    tokens: float, tokens_per_round: float, draft: int, capacity: DeviceCapacity
) -> float:
    """Return the seconds to emit `tokens` in rounds of `draft` drafts."""
    cost = draft * capacity.draft_token_seconds + capacity.verify_seconds
    return tokens / tokens_per_round * cost


class Estimator:
    """Estimates execution times of rows, from lengths, acceptance and the cost of a round."""

    def __init__(
        self,
        capacity: DeviceCapacity,
        lengths: LengthPredictor | None = None,
        *,
        track_cost: bool = False,
        memory_rounds: float = inf,
        drift_threshold: float = 0.0,
        prior_rounds: float = PRIOR_ROUNDS,
    ) -> None:
        """`track_cost`: correct the cost of a round by what rounds took.

        `memory_rounds`: rounds that the acceptance of a request remembers. `drift_threshold`: of
        `PageHinkleyTest`; 0 for no test. `prior_rounds`: weight of the prior of a request.
        """
        self.lengths: LengthPredictor = lengths or LearnedLengths(raw_hints=True)
        self._capacity = capacity
        self._track_cost = track_cost
        self._memory_rounds, self._drift_threshold, self._prior_rounds = (
            memory_rounds,
            drift_threshold,
            prior_rounds,
        )
        self._drift_tests: dict[int, PageHinkleyTest] = {}
        self._global_acceptance = AcceptanceCurve.uninformed(
            capacity.speculate, GLOBAL_MEMORY_ROUNDS
        )
        self._suffix_acceptance = AcceptanceCurve.uninformed(capacity.suffix, GLOBAL_MEMORY_ROUNDS)
        self._drafted = self._accepted = 0.0
        self._cost_ratio = 1.0
        self._distributions: dict[int, tuple[int, LogNormal]] = {}
        """By id, with the version of `lengths` that they are from."""
        self._first_estimates: dict[int, tuple[float, bool]] = {}
        """Estimated execution time by id, and whether it is final: half of it was served."""
        self._errors: deque[float] = deque(maxlen=ERROR_WINDOW)

    @property
    def acceptance_rate(self) -> float:
        """Accepted fraction of recent drafts; 0 without any."""
        return self._accepted / self._drafted if self._drafted else 0.0

    @property
    def survival(self) -> tuple[float, ...]:
        """S_1..S_n over all requests: the chance that the first k drafts are all accepted."""
        return self._global_acceptance.curve

    @property
    def mean_error(self) -> float:
        """Mean relative error of the estimates of recent requests; 0 before the first."""
        return sum(self._errors) / len(self._errors) if self._errors else 0.0

    def new_row(self, job: Job) -> Row:
        """Return a row for a job that has just arrived.

        Its acceptance is that of all requests, as it is at any time, until it drafts itself.
        """
        longest = self._capacity.speculate
        cap = longest if job.speculate is None else min(longest, job.speculate)
        acceptance = AcceptanceCurve.following(
            self._global_acceptance, longest, self._memory_rounds, self._prior_rounds
        )
        suffix = self._capacity.suffix
        suffix_cap = suffix if job.speculate is None else min(suffix, job.speculate)
        suffix_acceptance = AcceptanceCurve.following(
            self._suffix_acceptance, suffix, self._memory_rounds, self._prior_rounds
        )
        return Row(job, acceptance, cap, suffix_acceptance, suffix_cap)

    def remaining_seconds(self, row: Row) -> float:
        """Return the estimated device seconds that `row` needs after its Steps in flight."""
        per_round = row.tokens_per_round
        pending = row.min_pending * per_round
        return self.service_seconds(
            row, self.expected_remaining_tokens(row, row.emitted + pending), per_round
        )

    def seconds_alone(self, row: Row) -> float:
        """Return the estimated seconds from start to end of `row` if nothing else were served."""
        per_round = row.tokens_per_round
        tokens = row.emitted + self.expected_remaining_tokens(row, row.emitted)
        decode = execution_time(tokens, per_round, row.draft_length, self._capacity)
        return decode + self._prefill_seconds(row.job.prompt)

    def length_distribution(self, row: Row) -> LogNormal:
        """Return the distribution of the length of its answer, in tokens."""
        version, lengths = self._distributions.get(row.job.id, (-1, None))
        if lengths is None or version != self.lengths.version:
            lengths = self.lengths.distribution(row.job)
            self._distributions[row.job.id] = self.lengths.version, lengths
        return lengths

    def expected_remaining_tokens(self, row: Row, emitted: float) -> float:
        """Return the expected tokens left, at least 1, of an answer longer than `emitted`."""
        lengths = self.length_distribution(row)
        if not lengths.sigma and emitted >= lengths.median:
            lengths = self.lengths.without_hint(row.job)
        return max(1.0, lengths.expected_remaining(emitted, row.job.max_new))

    def service_seconds(self, row: Row, tokens: float, per_round: float) -> float:
        """Return the device seconds that `row` needs for its prefill and then for `tokens`."""
        decode = execution_time(tokens, per_round, row.draft_length, self._capacity)
        ratio = self._cost_ratio if self._track_cost else 1.0
        return ratio * (decode + self._prefill_seconds(row.unprefilled))

    def device_share(self, row: Row) -> float:
        """Return the estimated device seconds of `row` alone, in Steps that it shares."""
        remaining = self.remaining_seconds(row)
        return remaining if self._track_cost else self._cost_ratio * remaining

    def exceeded_prediction(self, row: Row) -> bool:
        """Return whether its answer is longer than could be expected."""
        lengths = self.length_distribution(row)
        return row.emitted > lengths.median * exp(MAX_DEVIATIONS * lengths.sigma)

    def observe(self, row: Row, outcome: Outcome) -> None:
        """A Step served `row`, which already counts `outcome`."""
        drafted, accepted = outcome.drafted, outcome.accepted
        row.acceptance.observe(drafted, accepted)
        if self._drift_threshold and self._drift_test(row).observe(drafted, accepted):
            row.acceptance.discount(ROUNDS_AFTER_DRIFT)
        if drafted:
            self._global_acceptance.observe(drafted, accepted)
            keep = 1 - 1 / GLOBAL_MEMORY_ROUNDS
            self._drafted = keep * self._drafted + drafted
            self._accepted = keep * self._accepted + accepted
        if outcome.suffix:
            row.suffix_acceptance.observe(outcome.suffix, outcome.suffix_accepted)
            self._suffix_acceptance.observe(outcome.suffix, outcome.suffix_accepted)
        is_plain = not (outcome.prefilled or outcome.forced or outcome.suffix)
        if outcome.emitted and is_plain and outcome.seconds > 0:
            self._learn_cost_ratio(outcome)
        total, settled = self._first_estimates.get(row.job.id, (0.0, False))
        if not settled:
            remaining = self.remaining_seconds(row)
            total, settled = row.device_seconds + remaining, row.device_seconds >= remaining
            self._first_estimates[row.job.id] = total, settled

    def _learn_cost_ratio(self, outcome: Outcome) -> None:
        expected = execution_time(1.0, 1.0, outcome.drafted, self._capacity)
        if expected > 0:  # 0 where costs were not measured
            ratio = min(4.0, outcome.seconds / expected)
            self._cost_ratio += COST_RATIO_WEIGHT * (ratio - self._cost_ratio)

    def remove(self, row: Row, end: RowEnded | None) -> None:
        """Remove `row`; learn its length if its answer ended by itself."""
        estimate = self._first_estimates.pop(row.job.id, None)
        self._drift_tests.pop(row.job.id, None)
        self._distributions.pop(row.job.id, None)
        if end not in NATURAL_ENDS or not row.emitted:
            return
        self.lengths.observe(row.job, row.emitted)
        if estimate is not None and row.device_seconds > 0:
            self._errors.append(abs(estimate[0] - row.device_seconds) / row.device_seconds)

    def learned_state(self) -> dict[str, Any]:
        """Return what was learned, for `restore`."""
        return {
            "version": STATE_VERSION,
            "lengths": self.lengths.learned_state(),
            "survival": self._global_acceptance.learned_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a learned state. Raises ValueError if it is not one."""
        try:
            if state["version"] != STATE_VERSION:
                raise ValueError(f"version {state['version']!r}, not {STATE_VERSION}")
            self.lengths.restore(state["lengths"])
            self._global_acceptance.restore(state["survival"])
        except (KeyError, TypeError, ValueError, AttributeError) as fault:
            raise ValueError(f"not what a scheduler has learned: {fault!r}") from fault

    def _drift_test(self, row: Row) -> PageHinkleyTest:
        test = self._drift_tests.get(row.job.id)
        if test is None:
            test = self._drift_tests[row.job.id] = PageHinkleyTest(self._drift_threshold)
        return test

    def _prefill_seconds(self, unprefilled: int) -> float:
        """Return the device seconds to prefill so many tokens."""
        if not unprefilled:
            return 0.0
        chunks = ceil(unprefilled / self._capacity.prefill_tokens) * self._capacity.verify_seconds
        return max(chunks, unprefilled * self._capacity.prefill_token_seconds)
