"""Draft lengths come near to the best rate that any lengths have."""

from __future__ import annotations

from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from router.scheduler.drafting.draft_lengths import RATE_TOLERANCE, maximise_throughput
from router.scheduler.drafting.step_costs import Price

LONGEST = 3
SECONDS = st.floats(0.0, 2.0)
CHANCES = st.lists(st.floats(0.0, 1.0), min_size=LONGEST, max_size=LONGEST)


def rate(lengths: tuple[int, ...], curves: list[tuple[float, ...]], price: Price) -> float:
    tokens = sum(1 + sum(curve[:n]) for n, curve in zip(lengths, curves, strict=True))
    return tokens / price.seconds(lengths)


@settings(deadline=None)
@given(
    curves=st.lists(CHANCES.map(lambda s: tuple(sorted(s, reverse=True))), min_size=1, max_size=3),
    fixed=st.tuples(*[SECONDS] * LONGEST),
    each=st.tuples(*[SECONDS] * LONGEST),
    guess=st.floats(0.1, 10.0),
)
def test_no_lengths_are_much_better(
    curves: list[tuple[float, ...]],
    fixed: tuple[float, ...],
    each: tuple[float, ...],
    guess: float,
) -> None:
    price = Price(1.0, fixed, each)
    found = maximise_throughput(curves, price, 0.0, guess, 0, 0.0)
    every = product(range(LONGEST + 1), repeat=len(curves))
    most = max(rate(lengths, curves, price) for lengths in every)
    assert (
        (1 - 2 * RATE_TOLERANCE) * most <= rate(found.lengths, curves, price) <= most * (1 + 1e-9)
    )


def test_an_expensive_position_is_drafted_if_those_after_it_make_up_for_it() -> None:
    curve, price = (0.9, 0.8, 0.8), Price(2.5e-3, (0.0, 3e-4, 1.5e-4), (6e-4, 0.0, 0.0))
    for guess in (300.0, 800.0, 1600.0, 3200.0):
        assert maximise_throughput([curve, curve], price, 0.0, guess, 0, 0.03).lengths == (3, 3)


def test_a_change_of_little_gain_is_not_made() -> None:
    curve, price = (0.9, 0.5), Price(1.0, (0.1, 0.25), (0.0, 0.0))
    assert maximise_throughput([curve], price, 0.0, 1.0, 1, 0.03).lengths == (1,)
    assert maximise_throughput([curve], price, 0.0, 1.0, 1, 0.0).lengths == (2,)
    assert maximise_throughput([curve], price, 0.0, 1.0, 2, 0.03).lengths == (2,)
