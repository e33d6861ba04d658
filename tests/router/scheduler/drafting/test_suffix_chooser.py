"""Lengths for suffix decoding next to another drafter."""

from __future__ import annotations

from router.scheduler.acceptance import AcceptanceCurve
from router.scheduler.api import DeviceCapacity, Job, Outcome
from router.scheduler.drafting.length_chooser import DraftLengthChooser
from router.scheduler.drafting.suffix_chooser import PROBE_INTERVAL
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.row import Row
from tests.support.drafting import LONGEST, device, row

SUFFIX = 16


def mixed_device(token_seconds: float = 0.0005) -> DeviceCapacity:
    """Drafts by suffix decoding cost their verification, `token_seconds` a token."""
    costs = tuple(
        (rows, length, 0.025 + rows * length * token_seconds)
        for rows in (1, 64)
        for length in (0, 1, SUFFIX)
    )
    return device(suffix=SUFFIX, suffix_costs=costs)


def mixed_row(id: int, own: float, suffix: float, cap: int = SUFFIX) -> Row:
    """A row whose drafts pass each position with these chances."""
    made = row(id, own)
    made.suffix_acceptance = AcceptanceCurve([suffix**k for k in range(1, SUFFIX + 1)])
    made.max_suffix = cap
    return made


def suffix_lengths(*rows: Row, **costs: float) -> dict[int, int]:
    chooser = DraftLengthChooser(mixed_device(**costs))
    chooser.choose(rows)
    return chooser.suffix_lengths


def test_each_row_gets_the_drafter_with_the_larger_surplus() -> None:
    assert set(suffix_lengths(mixed_row(1, 0.9, 0.2), mixed_row(2, 0.2, 0.9))) == {2}


def test_a_better_drafter_of_equal_length_is_not_displaced_by_a_cheaper_one() -> None:
    assert suffix_lengths(mixed_row(1, 0.95, 0.5)) == {}
    assert suffix_lengths(mixed_row(1, 0.95, 0.98)) == {1: SUFFIX}


def test_costly_verification_shortens_drafts_until_there_are_none() -> None:
    cheap, costly, too_costly = (
        suffix_lengths(mixed_row(1, 0.0, 0.8), token_seconds=seconds).get(1, 0)
        for seconds in (0.0001, 0.01, 0.05)
    )
    assert SUFFIX >= cheap > costly > too_costly == 0


def test_a_draft_reaches_neither_beyond_the_limit_nor_beyond_the_last_token() -> None:
    last = mixed_row(1, 0.0, 0.95)
    last.emitted = last.job.max_new - 4
    assert suffix_lengths(last) == {1: 3}
    assert suffix_lengths(mixed_row(1, 0.0, 0.95, cap=2)) == {1: 2}
    assert suffix_lengths(mixed_row(1, 0.0, 0.95, cap=0)) == {}


def test_what_does_not_pay_is_tried_from_time_to_time() -> None:
    chooser, bad = DraftLengthChooser(mixed_device()), mixed_row(1, 0.9, 0.0)
    tried = []
    for _ in range(2 * PROBE_INTERVAL):
        chooser.choose([bad])
        tried.append(chooser.suffix_lengths)
    assert [length for length in tried if length] == [{1: 1}] * 2


def test_lengths_that_do_not_adapt_leave_suffix_decoding_out() -> None:
    chooser = DraftLengthChooser(mixed_device(), adapt=False)
    assert chooser.choose([mixed_row(1, 0.5, 0.9)]) == {1: LONGEST}
    assert chooser.suffix_lengths == {}


def outcome(**changes: int) -> Outcome:
    fields = {"prefilled": 0, "drafted": 0, "accepted": 0, "emitted": 1, **changes}
    return Outcome(id=1, seconds=0.03, end=None, **fields)  # type: ignore[arg-type]


def test_the_estimator_keeps_a_curve_for_each_drafter_of_a_request() -> None:
    estimator = Estimator(mixed_device())
    first, second = estimator.new_row(Job(1, 0.0, 4, 99)), estimator.new_row(Job(2, 0.0, 4, 99))
    own, by_suffix = first.acceptance.curve, second.suffix_acceptance.curve
    assert second.suffix_acceptance.curve == first.suffix_acceptance.curve
    for _ in range(20):
        result = outcome(suffix=8, suffix_accepted=8, emitted=9)
        first.apply_outcome(result)
        estimator.observe(first, result)
    assert first.acceptance.curve == own
    assert first.suffix_acceptance.curve[7] > by_suffix[7]
    assert second.suffix_acceptance.curve[7] > by_suffix[7], "a request begins with all others'"


def test_the_expected_tokens_of_a_round_are_a_mean_over_those_who_draft() -> None:
    mixed = mixed_row(1, 0.5, 0.9)
    mixed.draft_length, mixed.suffix_length = 2, 8
    own = mixed.acceptance.expected_tokens(2)
    assert mixed.tokens_per_round == own
    for _ in range(200):
        mixed.apply_outcome(outcome(suffix=8, suffix_accepted=4, emitted=5))
    assert abs(mixed.tokens_per_round - mixed.suffix_acceptance.expected_tokens(8)) < 0.01
    assert mixed.draft_lag == 1000, "the draft model has seen none of these tokens"


def test_a_request_that_limits_its_drafts_limits_those_of_every_drafter() -> None:
    estimator = Estimator(mixed_device())
    limits = [
        estimator.new_row(Job(id, 0.0, 4, 99, speculate=limit)).max_suffix
        for id, limit in enumerate((None, 0, 3, 64))
    ]
    assert limits == [SUFFIX, 0, 3, SUFFIX]
