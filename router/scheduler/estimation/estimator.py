"""How much service a request still needs: the execution time of arXiv 2505.17074 for the remainder.

    T = L / (n*A + 1) * (n*T_SSM + T_LLM)

with the tokens left for L, the request's own survival for n*A + 1, and its unfed prompt added.
`follow` corrects the cost of a round by what rounds took of late. It keeps what is learned of all
requests together, and how far off its estimates were.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from math import ceil, exp, inf
from typing import Any

from router.scheduler.acceptance import PRIOR_ROUNDS, SERVED, Drift, Survival
from router.scheduler.api import Capacity, End, Job, Outcome
from router.scheduler.estimation.length import Lengths, Served
from router.scheduler.estimation.lognormal import SURPRISE, Law
from router.scheduler.row import Row

VERSION = 1
"""Of `learned`."""
ENDED = 256
"""Requests over which the error is averaged."""
PACE = 0.02
"""Weight of one row's round in the moving average of what a round takes."""
AFTERMATH = 4.0
"""Rounds that a request remembers after its acceptance has drifted."""
OWN_END = (End.EOS, End.LENGTH, End.STOP)


def execution_time(tokens: float, per_round: float, draft: int, capacity: Capacity) -> float:
    """Seconds to emit `tokens` in rounds of `draft` drafts that yield `per_round` tokens each."""
    cost = draft * capacity.draft_token_seconds + capacity.verify_seconds
    return tokens / per_round * cost


class Estimator:
    """Execution times of rows, and what they rest on."""

    def __init__(
        self,
        capacity: Capacity,
        lengths: Lengths | None = None,
        *,
        follow: bool = False,
        memory: float = inf,
        alarm: float = 0.0,
        prior: float = PRIOR_ROUNDS,
    ) -> None:
        """`memory`: rounds that a request remembers. `alarm`: threshold of `Drift`; 0 for none.

        `prior`: rounds that a request's prior weighs.
        """
        self.lengths: Lengths = lengths or Served(plain=True)
        self._capacity = capacity
        self._follow = follow
        self._memory, self._alarm, self._prior = memory, alarm, prior
        self._drifts: dict[int, Drift] = {}
        self._served = Survival.unknown(capacity.speculate, SERVED)
        self._drafted = self._accepted = 0.0
        self._pace = 1.0
        self._laws: dict[int, tuple[int, Law]] = {}
        """By id, with the version of `lengths`."""
        self._first: dict[int, tuple[float, bool]] = {}
        """Estimated execution time by id, and whether it is settled: half of it was served."""
        self._errors: deque[float] = deque(maxlen=ENDED)

    @property
    def acceptance(self) -> float:
        """Accepted share of recent drafts; 0 where there were none."""
        return self._accepted / self._drafted if self._drafted else 0.0

    @property
    def error(self) -> float:
        """Mean relative error of the estimates of recent requests; 0 before the first."""
        return sum(self._errors) / len(self._errors) if self._errors else 0.0

    def row(self, job: Job) -> Row:
        """A row for a job that has just arrived."""
        longest = self._capacity.speculate
        cap = longest if job.speculate is None else min(longest, job.speculate)
        prior = self._served.curve(longest)
        return Row(job, Survival(prior, self._memory, self._prior), cap)

    def remaining(self, row: Row) -> float:
        """Estimated seconds of service that `row` still needs, Steps in flight counted as done."""
        per_round = row.survival.tokens(row.draft)
        flown = row.certain * per_round
        return self.seconds(row, self.left(row, row.emitted + flown), per_round)

    def law(self, row: Row) -> Law:
        """Of the length of its answer."""
        version, law = self._laws.get(row.job.id, (-1, None))
        if law is None or version != self.lengths.version:
            law = self.lengths.law(row.job)
            self._laws[row.job.id] = self.lengths.version, law
        return law

    def left(self, row: Row, emitted: float) -> float:
        """Expected tokens left of an answer that goes on after `emitted`, at least 1."""
        law = self.law(row)
        if not law.sigma and emitted >= law.median:
            law = self.lengths.usual(row.job)
        return max(1.0, law.left(emitted, row.job.max_new))

    def seconds(self, row: Row, tokens: float, per_round: float) -> float:
        """Of service that `row` needs for what is unfed and then for `tokens`."""
        decode = execution_time(tokens, per_round, row.draft, self._capacity)
        return self._pace * (decode + self._prefill(row.unfed))

    def outrun(self, row: Row) -> bool:
        """Whether its answer is longer than could be expected."""
        law = self.law(row)
        return row.emitted > law.median * exp(SURPRISE * law.sigma)

    def observe(self, row: Row, outcome: Outcome) -> None:
        """A Step served `row`, which already counts `outcome`."""
        drafted, accepted = outcome.drafted, outcome.accepted
        row.survival.observe(drafted, accepted)
        if self._alarm and self._drift(row).observe(drafted, accepted):
            row.survival.fade(AFTERMATH)
        if drafted:
            self._served.observe(drafted, accepted)
            keep = 1 - 1 / SERVED
            self._drafted = keep * self._drafted + drafted
            self._accepted = keep * self._accepted + accepted
        if self._follow and outcome.emitted and not outcome.prefilled and outcome.seconds > 0:
            usual = execution_time(1.0, 1.0, drafted, self._capacity)
            self._pace += PACE * (min(4.0, outcome.seconds / usual) - self._pace)
        total, settled = self._first.get(row.job.id, (0.0, False))
        if not settled:
            remaining = self.remaining(row)
            total, settled = row.attained + remaining, row.attained >= remaining
            self._first[row.job.id] = total, settled

    def end(self, row: Row, end: End | None) -> None:
        """Forget `row`; learn from it if its answer came to its own end."""
        estimate = self._first.pop(row.job.id, None)
        self._drifts.pop(row.job.id, None)
        self._laws.pop(row.job.id, None)
        if end not in OWN_END or not row.emitted:
            return
        self.lengths.observe(row.job, row.emitted)
        if estimate is not None and row.attained > 0:
            self._errors.append(abs(estimate[0] - row.attained) / row.attained)

    def learned(self) -> dict[str, Any]:
        """State, to go on from in `restore`."""
        return {
            "version": VERSION,
            "lengths": self.lengths.learned(),
            "survival": self._served.learned(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `learned`. Raises ValueError for anything else."""
        try:
            if state["version"] != VERSION:
                raise ValueError(f"version {state['version']!r}, not {VERSION}")
            self.lengths.restore(state["lengths"])
            self._served.restore(state["survival"])
        except (KeyError, TypeError, ValueError, AttributeError) as fault:
            raise ValueError(f"not what a scheduler has learned: {fault!r}") from fault

    def _drift(self, row: Row) -> Drift:
        drift = self._drifts.get(row.job.id)
        if drift is None:
            drift = self._drifts[row.job.id] = Drift(self._alarm)
        return drift

    def _prefill(self, unfed: int) -> float:
        """Seconds to feed `unfed` tokens."""
        if not unfed:
            return 0.0
        chunks = ceil(unfed / self._capacity.prefill_tokens) * self._capacity.verify_seconds
        return max(chunks, unfed * self._capacity.prefill_token_seconds)
