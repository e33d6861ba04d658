"""Prices that warm-up got wrong are corrected within a few Steps, on devices of every shape.

A device has true costs of a roofline's form. Warm-up measured few of them, with errors, and the
rows' acceptance is known. What counts is how many Steps are slower than plain ones, per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.scheduler.api import Outcome
from router.scheduler.drafting.length_chooser import DraftLengthChooser
from router.scheduler.row import Row
from tests.support.drafting import LONGEST, device, rows

STEPS = 60
MAX_SLOWER_STEPS = 10
TOLERANCE = 0.15
"""Relative loss of rate below which a Step is not slower."""


@dataclass(frozen=True)
class Device:
    """Seconds to read the weights, to compute a token, and for a forward of the draft model."""

    memory: float
    token: float
    draft: float = 0.0

    def seconds(self, lengths: Sequence[int]) -> float:
        tokens = len(lengths) + sum(lengths)
        return max(self.memory, self.token * tokens) + self.draft * max(lengths)


def slower_steps(
    truth: Device, warmup: Device, sizes: Sequence[int], count: int, chance: float
) -> list[int]:
    """The Steps that drafted at less than the rate of plain ones."""
    cells = [(n, k, warmup.seconds([k] * n)) for n in sizes for k in (0, 1, LONGEST)]
    chooser, some = DraftLengthChooser(device(*cells)), rows(count, chance)
    plain = count / truth.seconds([0] * count)
    slower = []
    for step in range(STEPS):
        lengths = list(chooser.choose(some).values())
        seconds = truth.seconds(lengths)
        tokens = sum(1 + sum(chance**k for k in range(1, n + 1)) for n in lengths)
        if tokens / seconds < (1 - TOLERANCE) * plain:
            slower.append(step)
        chooser.learn(
            [outcome(row, n, seconds / count) for row, n in zip(some, lengths, strict=True)]
        )
    return slower


def outcome(row: Row, drafted: int, seconds: float) -> tuple[Row, Outcome]:
    return row, Outcome(row.job.id, 0, drafted, 0, 1, seconds)


@pytest.mark.parametrize("count", [2, 4, 8, 16, 32, 64])
@pytest.mark.parametrize("chance", [0.1, 0.4, 0.7])
@pytest.mark.parametrize(
    "truth",
    [Device(0.067, 0.025), Device(0.067, 0.012), Device(0.067, 0.004), Device(0.02, 0.002, 0.004)],
)
def test_what_one_row_shows_is_enough_to_start(truth: Device, count: int, chance: float) -> None:
    """A real model on a CPU: warm-up has no time for more than one row."""
    assert len(slower_steps(truth, truth, [1], count, chance)) <= MAX_SLOWER_STEPS


def test_drafts_that_looked_free_for_one_row_are_not_for_many() -> None:
    """One row is bound by memory up to 10 tokens; a Step of 32 rows that draft takes 4 s."""
    truth = Device(0.067, 0.0067)
    assert len(slower_steps(Device(0.067, 0.014), Device(0.067, 0.0), [1], 32, 0.3)) <= 6
    assert len(slower_steps(truth, truth, [1], 32, 0.3)) <= 6


costs = st.floats(0.001, 0.1)
errors = st.floats(0.2, 5.0)


@given(
    costs, costs, st.floats(0.0, 0.01), errors, errors,
    st.sampled_from([(1,), (1, 4), (1, 8), (1, 4, 16), (1, 64)]),
    st.sampled_from([1, 2, 3, 8, 24, 32, 64]), st.floats(0.0, 0.95),
)  # fmt: skip
@settings(max_examples=60, deadline=None, derandomize=True)
def test_drafting_is_never_slower_than_plain_for_more_than_a_few_steps(
    memory: float, token: float, draft: float, wrong_memory: float, wrong_token: float,
    sizes: tuple[int, ...], count: int, chance: float,
) -> None:  # fmt: skip
    truth = Device(memory, token, draft)
    warmup = Device(memory * wrong_memory, token * wrong_token, draft)
    assert len(slower_steps(truth, warmup, sizes, count, chance)) <= MAX_SLOWER_STEPS
