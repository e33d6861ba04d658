"""Draft lengths by what they yield and cost. `device` is where a verification is most of a Step."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.scheduler.acceptance import AcceptanceCurve
from router.scheduler.api import DeviceCapacity, Job, Outcome
from router.scheduler.drafting.length_chooser import (
    FIRST_PROBE_INTERVAL,
    PROBED_ROWS,
    UNCHECKED_STEPS,
    DraftLengthChooser,
)
from router.scheduler.row import Row
from tests.support.drafting import LONGEST, device, row, rows
from tests.support.virtual_device import capacity


def test_drafts_that_do_not_adapt_are_as_long_as_they_may_be() -> None:
    rejected = [row(1, 0.0), row(2, 0.0, max_new=4), row(3, 0.0, cap=2)]
    assert lengths(device(), *rejected) == [0, 0, 0]
    assert DraftLengthChooser(device(), adapt=False).choose(rejected) == {1: LONGEST, 2: 3, 3: 2}


def lengths(capacity: DeviceCapacity, *rows: Row) -> list[int]:
    """The first choice of a fresh server."""
    return list(DraftLengthChooser(capacity).choose(rows).values())


@pytest.mark.parametrize(("max_new", "longest"), [(9, 5), (4, 3), (3, 2), (1, 0)])
def test_a_draft_never_reaches_beyond_the_last_token(max_new: int, longest: int) -> None:
    assert lengths(device(), row(chance=0.99, max_new=max_new, cap=5)) == [longest]


def test_a_step_in_flight_takes_at_least_one_of_the_tokens_left() -> None:
    flying = row(chance=0.99, max_new=4)
    flying.schedule(prefill=0, max_emitted=3)
    assert lengths(device(), flying) == [2]


def test_a_request_without_drafts_gets_none_while_others_draft() -> None:
    none, free, two = lengths(device(), row(1, 0.9, cap=0), row(2, 0.9), row(3, 0.9, cap=2))
    assert none == 0
    assert two == 2 < free


def test_a_row_in_prefill_is_not_asked() -> None:
    assert (
        DraftLengthChooser(device()).choose(
            [Row(Job(1, 0.0, 4, 9), AcceptanceCurve.uninformed(8), 8)]
        )
        == {}
    )


def test_a_server_without_a_drafter_drafts_nothing() -> None:
    assert DraftLengthChooser(capacity(speculate=0)).choose([row()]) == {}


def test_the_longest_draft_is_the_one_of_the_best_rate() -> None:
    """By hand: 1 token in 25 ms, 1.5 in 35, 1.75 in 45, 1.875 in 55: 40, 42.9, 38.9, 34.1 a s."""
    slow = replace(device(), draft_token_seconds=0.010)
    assert lengths(slow, row(chance=0.5)) == [1]


def test_nothing_is_drafted_where_drafting_costs_more_than_it_yields() -> None:
    dear = replace(device(), draft_token_seconds=0.025)
    assert lengths(dear, *rows(3, 0.6)) == [0, 0, 0]


def test_at_a_high_batch_drafting_stops_and_at_a_low_one_it_begins_again() -> None:
    """Verification is free for one row, and in proportion to its tokens for 64."""
    costs = [(1, 0, 0.020), (1, 8, 0.028), (64, 0, 0.040), (64, 8, 0.360)]
    drafting = DraftLengthChooser(device(*costs))
    assert drafting.choose(rows(1, 0.7))[0] >= 3
    assert set(drafting.choose(rows(64, 0.7)).values()) == {0}
    assert drafting.choose(rows(2, 0.7))[0] >= 3


def test_a_row_whose_drafts_fail_drafts_less_than_one_whose_drafts_pass() -> None:
    costs = [(1, 0, 0.020), (1, 8, 0.028), (8, 0, 0.024), (8, 8, 0.080)]
    bad, good = row(1, 0.05), row(2, 0.95)
    chosen = lengths(device(*costs), *(row(id, 0.05) for id in range(3, 9)), bad, good)
    assert chosen[:-1] == [0] * 7
    assert chosen[-1] == 8


def test_a_small_gain_does_not_change_the_longest_draft() -> None:
    drafting, one = DraftLengthChooser(device()), row(chance=0.7)
    before = drafting.choose([one])[1]
    random, seen = Random(1), set()
    for _ in range(FIRST_PROBE_INTERVAL - 2):
        one.acceptance = row(chance=0.7 + random.uniform(-0.02, 0.02)).acceptance
        seen.add(drafting.choose([one])[1])
    assert seen == {before}


def test_a_gap_that_costs_more_than_drafting_yields_is_not_closed() -> None:
    late = row(chance=0.7)
    late.draft_lag = 4000
    assert lengths(device(catch_up_seconds=0.001), late) == [0]
    assert lengths(device(catch_up_seconds=0.000001), late)[0] > 0
    assert lengths(device(), late)[0] > 0, "prompt lookup misses nothing"


def test_now_and_then_a_few_rows_draft_one_more_and_more_rarely_while_it_changes_nothing() -> None:
    drafting = DraftLengthChooser(replace(device(), draft_token_seconds=0.025))
    crowd = rows(10, 0.6)
    probes = []
    for step in range(400):
        drafted = [id for id, length in drafting.choose(crowd).items() if length]
        if drafted:
            probes.append((step, drafted))
    assert [step for step, _ in probes] == [15, 47, 111, 239]
    assert [len(drafted) for _, drafted in probes] == [PROBED_ROWS] * 4
    assert {id for _, drafted in probes for id in drafted} == set(range(10)), "all in turn"


def test_drafting_resumes_once_probes_pass() -> None:
    """The prior says that drafts fail; in truth all pass."""
    drafting, one = (
        DraftLengthChooser(replace(device(), draft_token_seconds=0.010)),
        row(chance=0.1),
    )
    longest = 0
    for _ in range(600):
        longest = drafting.choose([one])[1]
        one.acceptance.observe(longest, longest)
    assert longest >= 4


def test_steps_that_take_longer_than_measured_change_the_choice() -> None:
    drafting, one = DraftLengthChooser(device()), row(chance=0.8)
    first = drafting.choose([one])[1]
    assert first >= 3
    for _ in range(300):
        drafted = drafting.choose([one])[1]
        seconds = 0.025 + 0.030 * drafted
        drafting.learn([(one, Outcome(1, 0, drafted, 0, 1, seconds))])
    assert drafting.choose([one])[1] == 0


def test_a_constant_draft_length_does_not_hide_what_drafting_costs() -> None:
    """Every Step drafts alike and is slow; only one without drafts can tell what made it so."""
    drafting, one = DraftLengthChooser(device()), row(chance=0.8)
    drafted = []
    for _ in range(4 * FIRST_PROBE_INTERVAL):
        drafted.append(drafting.choose([one])[1])
        seconds = 0.025 + 0.030 * drafted[-1]
        drafting.learn([(one, Outcome(1, 0, drafted[-1], 0, 1, seconds))])
    assert drafted[0] >= 3
    assert 0 in drafted[:8]
    assert max(drafted[8:]) < drafted[0] / 2


def test_a_plain_step_comes_early_where_none_has_been_seen() -> None:
    """Warm-up measured one row; 40 rows draft as soon as they are there."""
    chooser, crowd = DraftLengthChooser(device((1, 0, 0.025), (1, 8, 0.026))), rows(40, 0.9)
    plain = []
    for step in range(12):
        chosen = chooser.choose(crowd)
        if not any(chosen.values()):
            plain.append(step)
        seconds = 0.030 / len(crowd)
        chooser.learn([(r, Outcome(r.job.id, 0, chosen[r.job.id], 0, 1, seconds)) for r in crowd])
    assert plain == [1 + UNCHECKED_STEPS]


chances = st.floats(0.0, 1.0)
crowds = st.lists(st.tuples(chances, st.integers(1, 12), st.integers(0, LONGEST)), max_size=20)
steps = st.floats(0.0001, 0.1)


@st.composite
def devices(draw: st.DrawFn) -> DeviceCapacity:
    """Whatever was measured, noise and all."""
    sizes = draw(st.sets(st.integers(1, 64), min_size=1, max_size=4))
    return device(
        *((size, draft, draw(steps)) for size in sizes for draft in (0, 1, LONGEST)),
        catch_up_seconds=draw(st.sampled_from([0.0, 0.0001])),
    )


def rows_of(histories: list[tuple[float, int, int]]) -> list[Row]:
    return [row(id, chance, left, cap) for id, (chance, left, cap) in enumerate(histories)]


@given(devices(), crowds, st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_no_draft_is_beyond_its_cap_and_equal_histories_choose_alike(
    capacity: DeviceCapacity, made: list[tuple[float, int, int]], seed: int
) -> None:
    twins = DraftLengthChooser(capacity), DraftLengthChooser(capacity)
    random = Random(seed)
    some = rows_of(made)
    for _ in range(40):
        chosen, again = (twin.choose(some) for twin in twins)
        assert chosen == again
        for each in some:
            assert 0 <= chosen[each.job.id] <= min(each.max_draft, each.remaining_tokens - 1)
            accepted = random.randint(0, chosen[each.job.id])
            each.acceptance.observe(chosen[each.job.id], accepted)
            each.draft_lag = random.choice((0, 0, 50))
        done = [(r, Outcome(r.job.id, 0, chosen[r.job.id], 0, 1, random.random())) for r in some]
        for twin in twins:
            twin.learn(done)


@given(steps, st.floats(0.0, 1.0), chances, st.integers(1, 64))
@settings(max_examples=200, deadline=None)
def test_a_draft_token_that_costs_more_than_a_plain_round_is_never_drafted(
    verify: float, more: float, chance: float, count: int
) -> None:
    """Even where every draft passes, a position yields no more than one plain round."""
    dear = verify * (1.0 + more)
    costs = [(n, draft, verify + draft * dear) for n in (1, 64) for draft in (0, LONGEST)]
    assert set(lengths(device(*costs), *rows(count, chance))) == {0}


@given(st.floats(0.001, 0.1), st.floats(0.0001, 0.05), chances, chances, st.integers(1, 64))
@settings(max_examples=300, deadline=None)
def test_drafts_that_pass_more_often_are_not_drafted_shorter(
    verify: float, token: float, one: float, other: float, count: int
) -> None:
    capacity = replace(device(), verify_seconds=verify, draft_token_seconds=token)
    low, high = sorted((one, other))
    assert lengths(capacity, *rows(count, low)) <= lengths(capacity, *rows(count, high))
