"""The four verbs: what every policy shares. Knows no policy by name.

A Batch serves the rows in the policy's order as far as rows, prefill budget and pages reach; how
is the business of `plan`. A row that is not named keeps its pages (keep-in-place preemption). The
first row in the order waits for nothing but its own Steps, and `submit` refuses what could not run
even alone, so with a live job and nothing in flight there is always a Batch.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any

from router.scheduler.api import Batch, Capacity, End, Job, Look, Outcome, View
from router.scheduler.batch_builder import Flight, Plan
from router.scheduler.drafting.length_chooser import Drafting
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.memory.kv_placement import Memory
from router.scheduler.policies.policy import Policy
from router.scheduler.row import PREEMPTIONS, Row


class Planner:
    """A Scheduler that serves rows in the order of its policy."""

    def __init__(
        self,
        capacity: Capacity,
        policy: Policy,
        estimator: Estimator | None = None,
        *,
        peak: bool = False,
        adapt: bool = True,
    ) -> None:
        """`estimator`: the one that `policy` asks, if it asks any.

        `peak`: a row starts only where pages are expected to suffice for it and all before it.
        `adapt`: draft lengths follow what pays, or else are the longest.
        """
        self._capacity = capacity
        self._policy = policy
        self._estimator = estimator or Estimator(capacity)
        self._expect = self._estimator.left if peak else None
        self._drafting = Drafting(capacity, adapt=adapt)
        self._memory = Memory(capacity)
        self._rows: dict[int, Row] = {}
        self._flights: deque[Flight] = deque()
        self._release: dict[int, None] = {}
        """Ids whose pages come free with the next Batch, oldest first."""
        self._last: dict[int, Row] = {}
        """Rows of the last Batch."""
        self._preemptions = dict.fromkeys(PREEMPTIONS, 0)
        self._prefetched = 0

    def submit(self, job: Job, now: float) -> None:
        """Take `job`. Raises ValueError if it can never fit, or if its id is live."""
        if job.id in self._rows:
            raise ValueError(f"request {job.id} is live")
        if job.prompt < 1 or job.max_new < 1 or (job.speculate or 0) < 0:
            raise ValueError(f"prompt, answer and draft are too short in {job}")
        if len(job.hashes) not in (0, job.prompt // self._capacity.page_size):
            raise ValueError(f"not one hash per full page of the prompt in {job}")
        need = self._memory.pages_for(job.prompt + job.max_new)
        if need > self._capacity.pages:
            raise ValueError(f"request {job.id} needs {need} of {self._capacity.pages} pages")
        row = self._rows[job.id] = self._estimator.row(job)
        self._policy.arrive(row, now)

    def cancel(self, id: int, now: float, end: End | None = None) -> None:
        """Drop a live job; unknown ids are ignored. Its pages come free with the next Batch.

        `end`: STOP if the answer is complete, so that its length is worth learning from.
        """
        row = self._rows.get(id)
        if row is not None:
            self._end(row, end)

    def next_batch(self, now: float) -> Batch | None:
        """Plan one Step; None: nothing to run and nothing to release, or the depth is reached."""
        if len(self._flights) >= self._capacity.depth:
            return None
        release = tuple(self._release)
        self._release.clear()
        self._memory.release(release)
        order, memory = self._order(now), self._memory
        drafts = self._drafting.lengths(order, memory.holders)
        flying = [row for flight in self._flights for row, _ in flight.values() if row.hashes]
        plan = Plan(self._capacity, memory, order, drafts, flying, self._expect)
        plan.fill()
        if not plan.flight and not release:
            return None
        self._flights.append(plan.flight)
        self._count(plan)
        return plan.moves.batch(plan.run, release)

    def complete(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Learn what the oldest Step in flight did.

        One LOST outcome, of any id, says that the whole group is gone: every Step in flight is
        void and no row holds KV, also those that no Step named. So with no Step in flight a
        `complete` changes nothing.
        """
        flight = self._flights.popleft() if self._flights else {}
        for flown, possible in flight.values():
            flown.land(possible)
        self._drafting.learn([(flight[o.id][0], o) for o in outcomes if o.id in flight])
        for outcome in outcomes:
            row, _ = flight.get(outcome.id, (None, 0))
            # The row may have been cancelled since, and its id even given to a new job.
            if row is not None and self._rows.get(outcome.id) is row:
                self._learn(row, outcome, now)
        if any(outcome.end is End.LOST for outcome in outcomes):
            self._lose()

    def view(self) -> View:
        """The state that metrics and `/info` show; the aged are counted in the first level."""
        waiting = Counter(
            max(1, self._policy.level(row)) for row in self._rows.values() if not self._ran(row)
        )
        return View(
            waiting=tuple(waiting[level] for level in range(1, self._policy.levels + 1)),
            running=len(self._last),
            perceptible=self._policy.perceptible,
            free_pages=self._memory.pages.free,
            preemptions=dict(self._preemptions),
            prefetched=self._prefetched,
            acceptance=self._estimator.acceptance,
            estimate_error=self._estimator.error,
        )

    def look(self, id: int, now: float) -> Look | None:
        """One request; None for unknown ids. To be asked before what ends the request."""
        row = self._rows.get(id)
        if row is None:
            return None
        return Look(
            level=self._policy.level(row),
            perceptible=self._policy.perceives(row),
            attained=row.attained,
            remaining=self._estimator.remaining(row),
            wait=0.0 if self._ran(row) else self._wait(row, now),
            preemptions=dict(row.preemptions),
        )

    def learned(self) -> dict[str, Any]:
        """What is worth keeping over a restart."""
        return self._estimator.learned()

    def _order(self, now: float) -> Sequence[Row]:
        return self._policy.order(now, 1 - self._memory.pages.free / self._capacity.pages)

    def _ran(self, row: Row) -> bool:
        """Whether the last Batch served `row`."""
        return self._last.get(row.job.id) is row

    def _wait(self, row: Row, now: float) -> float:
        """Until enough of those before `row` have ended, if they end evenly; 0 with a row free."""
        order = self._order(now)
        ahead = [self._estimator.remaining(r) for r in takewhile(lambda r: r is not row, order)]
        more = len(ahead) - self._capacity.max_rows + 1
        return sum(ahead) * more / len(ahead) if more > 0 else 0.0

    def _learn(self, row: Row, outcome: Outcome, now: float) -> None:
        if outcome.end is End.LOST:
            return
        row.learn(outcome)
        self._estimator.observe(row, outcome)
        if outcome.end is End.ERROR:
            self._memory.pages.retract(row.job.id)
        else:
            self._memory.publish(row)
        if outcome.end is None:
            self._policy.observe(row, outcome, now)
        else:
            self._end(row, outcome.end)

    def _end(self, row: Row, end: End | None) -> None:
        del self._rows[row.job.id]
        self._estimator.end(row, end)
        self._policy.leave(row, end)
        if self._memory.drop(row):
            self._release[row.job.id] = None

    def _lose(self) -> None:
        self._flights.clear()
        self._release.clear()
        self._memory = Memory(self._capacity)
        self._last = {}
        for row in self._rows.values():
            row.forget()

    def _count(self, plan: Plan) -> None:
        rows, passed, run = self._rows, plan.passed, plan.running
        kept = (row for id, row in self._last.items() if run.get(id) is not row is rows.get(id))
        self._preempt("keep", (r for r in kept if r.remaining > 0 and r.job.id not in passed))
        self._preempt("recompute", map(rows.__getitem__, plan.moves.evict))
        self._preempt("swap", (rows[swap.id] for swap in plan.moves.swap_out))
        self._prefetched += len(plan.moves.swap_in)
        self._last = run

    def _preempt(self, kind: str, rows: Iterable[Row]) -> None:
        for row in rows:
            row.preemptions[kind] += 1
            self._preemptions[kind] += 1
