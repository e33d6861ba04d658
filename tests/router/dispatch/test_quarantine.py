"""Who is suspected of making the shards fail: causes are given up, and nobody else is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.dispatch.quarantine import MAX_RESTARTS, Quarantine

NO_SUSPECTS: Quarantine[int] = Quarantine()
IDS = st.frozensets(st.integers(1, 20), min_size=1)


def run_alone_until_clear(state: Quarantine[int], causes: frozenset[int]) -> tuple[set[int], int]:
    """Try each suspect; return who was given up, and the number of failures."""
    given_up, failures = set[int](), 0
    while (id := state.on_trial) is not None:
        if id not in causes:
            state = state.without({id})
            continue
        failures += 1
        state = state.after_failure({id})
        given_up |= state.given_up
        state = state.without(state.given_up)
    return given_up, failures


@given(IDS, IDS)
def test_of_the_requests_that_ran_exactly_the_causes_are_given_up(
    running: frozenset[int], causes: frozenset[int]
) -> None:
    causes &= running
    suspects = NO_SUSPECTS.after_failure(sorted(running))
    given_up, failures = run_alone_until_clear(suspects, causes)
    assert given_up == causes
    assert failures == MAX_RESTARTS * len(causes)


@given(IDS, st.integers(1, MAX_RESTARTS))
def test_a_request_that_decodes_between_failures_is_never_given_up(
    running: frozenset[int], failures: int
) -> None:
    state = NO_SUSPECTS
    for _ in range(10):
        for _ in range(failures):
            state = state.after_failure(running)
            assert not state.given_up
        state = state.without(running)
        assert state.on_trial is None


def test_the_one_with_most_failures_is_tried_first_then_the_oldest() -> None:
    state = NO_SUSPECTS.after_failure((1, 2, 3)).after_failure((2,))
    assert state.on_trial == 2
    assert state.without({2}).on_trial == 1


def test_a_failure_while_nothing_ran_makes_nobody_a_suspect() -> None:
    assert NO_SUSPECTS.after_failure(()).on_trial is None
