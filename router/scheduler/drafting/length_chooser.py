"""How many tokens each row drafts in its next round: what gives most tokens a second.

A Step with drafts of g_b tokens yields sum over rows (1 + S_1 + ... + S_g_b), S_k being the chance
that k drafts survive, and costs what `costs` says; `offer` finds the lengths with the best ratio.

Three corrections. A draft that missed tokens must take them in first: a toll, spread over
`HORIZON` rounds. A change must gain more than `SLACK`, or noise would make it flap. And what is
never tried is never seen: now and then a few rows, in turn, draft one token more than they should,
or all draft nothing for once, more and more rarely while that changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.scheduler.api import Capacity, Outcome
from router.scheduler.drafting.draft_lengths import best
from router.scheduler.drafting.step_costs import Price, StepCosts
from router.scheduler.row import Row

HORIZON = 16
"""Rounds over which the cost of closing a gap is spread."""
SLACK = 0.03
"""Gain in tokens a second below which the longest draft stays as it is."""
PROBED = 4
"""Rows that draft one more in a probe; every other probe drafts nothing."""
PROBE_FIRST, PROBE_LAST = 16, 256
"""Steps between two probes; doubled after each, reset when the longest draft changes."""
ORDINARY = 2
"""Missed tokens that a draft takes in at no extra cost."""


class Drafting:
    """Chooses draft lengths. Owns the prices, and what the last choice was."""

    def __init__(self, capacity: Capacity, *, adapt: bool = True) -> None:
        """`adapt`: unless set, every draft is as long as it may be.

        Raises ValueError for measured costs that say too little.
        """
        self._adapt = adapt
        cells = capacity.costs or _nominal(capacity)
        self._costs = StepCosts(cells, capacity.speculate, capacity.max_rows)
        self._most_rows = capacity.max_rows
        self._catch_up = capacity.catch_up_seconds / HORIZON
        self._nothing = (0.0,) * capacity.speculate
        self._longest = 0
        self._count, self._rate = 0, 0.0
        """Rows of the last choice, and what it was to yield."""
        self._wait, self._waited, self._turn = PROBE_FIRST, 0, 0
        self._lengthened = False
        """Whether the last probe drafted more, not nothing."""

    def lengths(self, order: Sequence[Row], holders: int | None = None) -> dict[int, int]:
        """By id, the draft length of the first rows of `order` that can decode; others draft 0.

        `holders`: rows of `order` that hold KV; nobody is looked for after the last of them.
        Never beyond the row's cap or its `remaining - 1`, since a round emits one token more than
        it accepts.
        """
        rows = self._able(order, len(order) if holders is None else holders)
        if not rows or not self._nothing:
            return {}
        caps = [min(row.draft_cap, row.remaining - 1) for row in rows]
        if not self._adapt:
            return {row.job.id: cap for row, cap in zip(rows, caps, strict=True)}
        price = self._costs.price(len(rows)).at(sum(row.known for row in rows))
        plain = len(rows) / price.base
        curves, toll = self._curves(rows, caps, price, plain)
        guess = self._rate if self._count == len(rows) else plain
        offer = best(curves, price, toll, guess, self._longest, SLACK)
        self._count, self._rate = len(rows), offer.rate
        chosen = list(offer.lengths)
        self._probe(chosen, caps, offer.longest)
        return {row.job.id: length for row, length in zip(rows, chosen, strict=True)}

    def learn(self, done: Sequence[tuple[Row, Outcome]]) -> None:
        """One Step did `done`; rows are as they were before it."""
        seconds, lengths, context = 0.0, [], 0
        for row, outcome in done:
            if outcome.prefilled or (outcome.drafted and row.lag > ORDINARY):
                return  # no plain round
            seconds += outcome.seconds
            if outcome.emitted:
                lengths.append(outcome.drafted)
                context += row.known
        if lengths and seconds > 0:
            self._costs.learn(lengths, context, seconds)

    def _able(self, order: Sequence[Row], holders: int) -> list[Row]:
        rows: list[Row] = []
        for row in order:
            if not holders or len(rows) == self._most_rows:
                break
            if not row.started:
                continue
            if not row.unfed:
                holders -= 1
                if row.remaining > 0:
                    rows.append(row)
            else:
                holders -= row.unfed < row.known
        return rows

    def _curves(
        self, rows: Sequence[Row], caps: Sequence[int], price: Price, rate: float
    ) -> tuple[list[tuple[float, ...]], float]:
        """Survival of every row, 0 beyond its cap, and the toll of those that must catch up."""
        curves, toll = [], 0.0
        for row, cap in zip(rows, caps, strict=True):
            curve = row.survival.whole
            if cap < len(curve):
                curve = curve[:cap] + self._nothing[cap:]
            if row.lag > ORDINARY and self._catch_up:
                due = row.lag * self._catch_up
                gains = (max(0.0, s - rate * e) for s, e in zip(curve, price.each, strict=True))
                if sum(gains) <= rate * due:
                    curve, due = self._nothing, 0.0
                toll += due
            curves.append(curve)
        return curves, toll

    def _probe(self, chosen: list[int], caps: Sequence[int], longest: int) -> None:
        """Remember the choice; when it is time for that, try another."""
        if longest != self._longest:
            self._longest, self._wait, self._waited = longest, PROBE_FIRST, 0
        self._waited += 1
        if self._waited < self._wait:
            return
        shorter = [place for place, cap in enumerate(caps) if chosen[place] < cap]
        if longest and (self._lengthened or not shorter):
            chosen[:] = [0] * len(chosen)
        elif shorter:
            for offset in range(min(PROBED, len(shorter))):
                chosen[shorter[(self._turn + offset) % len(shorter)]] += 1
            self._turn += PROBED
        else:
            return
        self._lengthened = not self._lengthened
        self._wait, self._waited = min(2 * self._wait, PROBE_LAST), 0


def _nominal(capacity: Capacity) -> list[tuple[int, int, float]]:
    """Costs by the paper's two figures, where nothing else was measured."""
    longest, verify = max(1, capacity.speculate), capacity.verify_seconds
    return [(1, 0, verify), (1, longest, verify + longest * capacity.draft_token_seconds)]
