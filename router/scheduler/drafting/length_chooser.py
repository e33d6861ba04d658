"""How many tokens each row drafts in its next round: what gives most tokens a second.

A Step with drafts of g_b tokens yields sum over rows (1 + S_1 + ... + S_g_b), S_k being the chance
that k drafts survive, and costs what `costs` says; `offer` finds the lengths with the best ratio.

Three corrections. A draft that missed tokens must take them in first: a toll, spread over
`CATCH_UP_ROUNDS` rounds. A change must gain more than `MIN_GAIN`, or noise would make it flap. And
what is never tried is never seen: now and then a few rows, in turn, draft one token more than they
should, or all draft nothing for once, more and more rarely while that changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.scheduler.api import DeviceCapacity, Outcome
from router.scheduler.drafting.draft_lengths import maximise_throughput
from router.scheduler.drafting.step_costs import Price, StepCostModel
from router.scheduler.row import Row

CATCH_UP_ROUNDS = 16
"""Rounds over which the cost of closing a gap is spread."""
MIN_GAIN = 0.03
"""Gain in tokens a second below which the longest draft stays as it is."""
PROBED_ROWS = 4
"""Rows that draft one more in a probe; every other probe drafts nothing."""
FIRST_PROBE_INTERVAL, MAX_PROBE_INTERVAL = 16, 256
"""Steps between two probes; doubled after each, reset when the longest draft changes."""
NORMAL_LAG = 2
"""Missed tokens that a draft takes in at no extra cost."""


class DraftLengthChooser:
    """Chooses draft lengths. Owns the prices, and what the last choice was."""

    def __init__(self, capacity: DeviceCapacity, *, adapt: bool = True) -> None:
        """`adapt`: unless set, every draft is as long as it may be.

        Raises ValueError for measured costs that say too little.
        """
        self._adapt = adapt
        cells = capacity.costs or _nominal_costs(capacity)
        self._costs = StepCostModel(cells, capacity.speculate, capacity.max_rows)
        self._max_rows = capacity.max_rows
        self._catch_up_seconds = capacity.catch_up_seconds / CATCH_UP_ROUNDS
        self._no_draft = (0.0,) * capacity.speculate
        self._longest_draft = 0
        self._last_row_count, self._last_rate = 0, 0.0
        """Rows of the last choice, and what it was to yield."""
        self._probe_interval, self._steps_since_probe, self._next_probed = (
            FIRST_PROBE_INTERVAL,
            0,
            0,
        )
        self._probed_longer = False
        """Whether the last probe drafted more, not nothing."""

    def choose(self, order: Sequence[Row], rows_with_kv: int | None = None) -> dict[int, int]:
        """By id, the draft length of the first rows of `order` that can decode; others draft 0.

        `holders`: rows of `order` that hold KV; nobody is looked for after the last of them.
        Never beyond the row's cap or its `remaining - 1`, since a round emits one token more than
        it accepts.
        """
        rows = self._decodable(order, len(order) if rows_with_kv is None else rows_with_kv)
        if not rows or not self._no_draft:
            return {}
        caps = [min(row.max_draft, row.remaining_tokens - 1) for row in rows]
        if not self._adapt:
            return {row.job.id: cap for row, cap in zip(rows, caps, strict=True)}
        price = self._costs.price(len(rows)).with_context(sum(row.known_tokens for row in rows))
        plain = len(rows) / price.base
        curves, toll = self._curves_and_catch_up(rows, caps, price, plain)
        guess = self._last_rate if self._last_row_count == len(rows) else plain
        offer = maximise_throughput(curves, price, toll, guess, self._longest_draft, MIN_GAIN)
        self._last_row_count, self._last_rate = len(rows), offer.rate
        chosen = list(offer.lengths)
        self._probe(chosen, caps, offer.longest)
        return {row.job.id: length for row, length in zip(rows, chosen, strict=True)}

    def learn(self, outcomes: Sequence[tuple[Row, Outcome]]) -> None:
        """One Step did `done`; rows are as they were before it."""
        seconds, lengths, context = 0.0, [], 0
        for row, outcome in outcomes:
            if outcome.prefilled or (outcome.drafted and row.draft_lag > NORMAL_LAG):
                return  # no plain round
            seconds += outcome.seconds
            if outcome.emitted:
                lengths.append(outcome.drafted)
                context += row.known_tokens
        if lengths and seconds > 0:
            self._costs.learn(lengths, context, seconds)

    def _decodable(self, order: Sequence[Row], rows_with_kv: int) -> list[Row]:
        rows: list[Row] = []
        for row in order:
            if not rows_with_kv or len(rows) == self._max_rows:
                break
            if not row.started:
                continue
            if not row.unprefilled:
                rows_with_kv -= 1
                if row.remaining_tokens > 0:
                    rows.append(row)
            else:
                rows_with_kv -= row.holds_kv
        return rows

    def _curves_and_catch_up(
        self, rows: Sequence[Row], caps: Sequence[int], price: Price, rate: float
    ) -> tuple[list[tuple[float, ...]], float]:
        """Survival of every row, 0 beyond its cap, and the toll of those that must catch up."""
        curves, toll = [], 0.0
        for row, cap in zip(rows, caps, strict=True):
            curve = row.acceptance.curve
            if cap < len(curve):
                curve = curve[:cap] + self._no_draft[cap:]
            if row.draft_lag > NORMAL_LAG and self._catch_up_seconds:
                due = row.draft_lag * self._catch_up_seconds
                gains = (max(0.0, s - rate * e) for s, e in zip(curve, price.per_row, strict=True))
                if sum(gains) <= rate * due:
                    curve, due = self._no_draft, 0.0
                toll += due
            curves.append(curve)
        return curves, toll

    def _probe(self, chosen: list[int], caps: Sequence[int], longest: int) -> None:
        """Remember the choice; when it is time for that, try another."""
        if longest != self._longest_draft:
            self._longest_draft, self._probe_interval, self._steps_since_probe = (
                longest,
                FIRST_PROBE_INTERVAL,
                0,
            )
        self._steps_since_probe += 1
        if self._steps_since_probe < self._probe_interval:
            return
        shorter = [place for place, cap in enumerate(caps) if chosen[place] < cap]
        if longest and (self._probed_longer or not shorter):
            chosen[:] = [0] * len(chosen)
        elif shorter:
            for offset in range(min(PROBED_ROWS, len(shorter))):
                chosen[shorter[(self._next_probed + offset) % len(shorter)]] += 1
            self._next_probed += PROBED_ROWS
        else:
            return
        self._probed_longer = not self._probed_longer
        self._probe_interval, self._steps_since_probe = (
            min(2 * self._probe_interval, MAX_PROBE_INTERVAL),
            0,
        )


def _nominal_costs(capacity: DeviceCapacity) -> list[tuple[int, int, float]]:
    """Costs by the paper's two figures, where nothing else was measured."""
    longest, verify = max(1, capacity.speculate), capacity.verify_seconds
    return [(1, 0, verify), (1, longest, verify + longest * capacity.draft_token_seconds)]
