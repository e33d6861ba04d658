"""How many tokens each row drafts in its next round: what gives the most tokens per second.

A Step in which row b drafts g_b tokens emits sum over rows (1 + S_1 + ... + S_g_b) tokens, where
S_k is the probability that k drafts are accepted, and costs what `StepCostModel` says;
`draft_lengths` finds the lengths with the best ratio.

Three corrections. A draft model that missed tokens must process them first: that cost is spread
over `CATCH_UP_ROUNDS` rounds. A change must gain more than `MIN_GAIN`, or noise would make the
lengths oscillate. And costs that are never measured are never learned: from time to time a few rows
draft one token more than they should, or no row drafts, less and less often while the choice stays.
Until a plain Step of about as many rows has been seen, one comes after `UNCHECKED_STEPS` with
drafts: that drafting pays is known only by comparison.

Decides no order.
"""

from __future__ import annotations

from collections.abc import Sequence

from router.scheduler.api import DeviceCapacity, Outcome
from router.scheduler.drafting.draft_lengths import maximise_throughput
from router.scheduler.drafting.step_costs import Price, StepCostModel
from router.scheduler.drafting.suffix_chooser import SuffixLengthChooser
from router.scheduler.row import Row

CATCH_UP_ROUNDS = 16
"""Rounds over which the cost of catching up is spread."""
MIN_GAIN = 0.03
"""Relative gain in tokens per second below which the longest draft stays as it is."""
PROBED_ROWS = 4
"""Rows that draft one token more in a probe; in every other probe no row drafts."""
FIRST_PROBE_INTERVAL, MAX_PROBE_INTERVAL = 16, 256
"""Steps between two probes: doubled after each, and reset when the longest draft changes."""
UNCHECKED_STEPS = 3
"""Steps with drafts in a row before a plain one, until the cost of plain ones has been seen."""
NORMAL_LAG = 2
"""Missed tokens that a draft model processes at no extra cost."""


class DraftLengthChooser:
    """Chooses draft lengths. Owns the cost model and the last choice."""

    def __init__(self, capacity: DeviceCapacity, *, adapt: bool = True) -> None:
        """`adapt`: if false, every draft has the maximum length.

        Raises ValueError if too few costs were measured.
        """
        self._adapt = adapt
        cells = capacity.costs or _nominal_costs(capacity)
        self._costs = StepCostModel(cells, capacity.speculate, capacity.max_rows)
        self._max_rows = capacity.max_rows
        self._catch_up_seconds = capacity.catch_up_seconds / CATCH_UP_ROUNDS
        self._no_draft = (0.0,) * capacity.speculate
        self._longest_draft = 0
        self._last_row_count, self._last_rate = 0, 0.0
        """Rows of the last choice, and its expected rate in tokens per second."""
        self._probe_interval, self._steps_since_probe, self._next_probed = (
            FIRST_PROBE_INTERVAL,
            0,
            0,
        )
        self._suffix = SuffixLengthChooser(capacity) if capacity.suffix and adapt else None
        self.suffix_lengths: dict[int, int] = {}
        """Lengths of drafts by suffix decoding, by id, of the last choice; 0 for other rows."""
        self._unchecked_steps = 0
        """Steps with drafts in a row, while the cost of a plain one has not been seen."""
        self._probed_longer = False
        """Whether the last probe drafted more, rather than nothing."""

    def choose(self, order: Sequence[Row], rows_with_kv: int | None = None) -> dict[int, int]:
        """Return the draft lengths by id of the first rows of `order` that can decode.

        All other rows draft 0. `rows_with_kv`: rows of `order` that hold KV; none is searched after
        the last of them. A length is at most the maximum of the row and its remaining tokens less
        one, since a round emits one token more than it accepts.
        """
        rows = self._decodable(order, len(order) if rows_with_kv is None else rows_with_kv)
        self.suffix_lengths = {}
        if not rows or not self._no_draft:
            return {}
        caps = [min(row.max_draft, row.remaining_tokens - 1) for row in rows]
        if not self._adapt:
            return {row.job.id: cap for row, cap in zip(rows, caps, strict=True)}
        price = self._costs.price(len(rows)).with_context(sum(row.known_tokens for row in rows))
        plain = len(rows) / price.base
        curves, catch_up = self._curves_and_catch_up(rows, caps, price, plain)
        guess = self._last_rate if self._last_row_count == len(rows) else plain
        best = maximise_throughput(curves, price, catch_up, guess, self._longest_draft, MIN_GAIN)
        self._last_row_count, self._last_rate = len(rows), best.rate
        chosen = list(best.lengths)
        if self._must_check_plain(len(rows), best.longest):
            chosen = [0] * len(chosen)
        else:
            self._probe(chosen, caps, best.longest)
        if self._suffix is not None:
            self.suffix_lengths = self._suffix.choose(rows, curves, chosen, price)
        return {row.job.id: length for row, length in zip(rows, chosen, strict=True)}

    def learn(self, outcomes: Sequence[tuple[Row, Outcome]]) -> None:
        """Learn the cost of a Step from its outcomes; the rows are still as they were before it."""
        seconds, lengths, suffixes, context = 0.0, [], [], 0
        for row, outcome in outcomes:
            catches_up = outcome.drafted and row.draft_lag > NORMAL_LAG
            if outcome.prefilled or outcome.forced or catches_up:
                return  # not a Step of plain rounds
            seconds += outcome.seconds
            if outcome.emitted:
                lengths.append(outcome.drafted)
                suffixes.append(outcome.suffix)
                context += row.known_tokens
        if not lengths or seconds <= 0:
            return
        if not any(suffixes):
            self._costs.learn(lengths, context, seconds)
        if self._suffix is not None and not any(lengths):
            self._suffix.learn(suffixes, context, seconds)

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
        """Return the curve of every row, 0 beyond its maximum, and the seconds of catching up."""
        curves, catch_up = [], 0.0
        for row, cap in zip(rows, caps, strict=True):
            curve = row.acceptance.curve
            if cap < len(curve):
                curve = curve[:cap] + self._no_draft[cap:]
            if row.draft_lag > NORMAL_LAG and self._catch_up_seconds:
                due = row.draft_lag * self._catch_up_seconds
                gains = (max(0.0, s - rate * e) for s, e in zip(curve, price.per_row, strict=True))
                if sum(gains) <= rate * due:
                    curve, due = self._no_draft, 0.0
                catch_up += due
            curves.append(curve)
        return curves, catch_up

    def _must_check_plain(self, rows: int, longest: int) -> bool:
        """Whether no row drafts, so that the cost of a plain Step becomes known."""
        unchecked = longest > 0 and self._costs.lacks_plain_step(rows)
        self._unchecked_steps = self._unchecked_steps + 1 if unchecked else 0
        if self._unchecked_steps <= UNCHECKED_STEPS:
            return False
        self._unchecked_steps = 0
        return True

    def _probe(self, chosen: list[int], caps: Sequence[int], longest: int) -> None:
        """Record the choice; when a probe is due, change it."""
        if longest != self._longest_draft:
            self._longest_draft, self._probe_interval, self._steps_since_probe = (
                longest,
                FIRST_PROBE_INTERVAL,
                0,
            )
        self._steps_since_probe += 1
        if self._steps_since_probe < self._probe_interval:
            return
        shorter = [index for index, cap in enumerate(caps) if chosen[index] < cap]
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
    """Return costs by the paper's two figures, if nothing else was measured."""
    longest, verify = max(1, capacity.speculate), capacity.verify_seconds
    return [(1, 0, verify), (1, longest, verify + longest * capacity.draft_token_seconds)]
