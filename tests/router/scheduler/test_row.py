from router.scheduler.acceptance import AcceptanceCurve
from router.scheduler.api import Job, Outcome
from router.scheduler.row import TRANSITIONS, Row, RowState


def row() -> Row:
    return Row(Job(1, 0.0, 10, 8), AcceptanceCurve.uninformed(3), 3)


def test_steps_in_flight_reduce_what_is_left_until_they_complete() -> None:
    flying = row()
    flying.schedule(prefill=6, max_emitted=0)
    flying.schedule(prefill=4, max_emitted=1)
    flying.schedule(prefill=0, max_emitted=4)
    assert (flying.unprefilled, flying.steps_in_flight) == (0, 3)
    assert (flying.remaining_tokens, flying.max_pending) == (6, 5)
    for possible in (0, 1, 4):
        flying.complete(possible)
    assert (flying.remaining_tokens, flying.max_pending, flying.steps_in_flight) == (8, 0, 0)


def test_a_row_without_kv_starts_from_its_first_token_with_what_it_emitted() -> None:
    lost = row()
    lost.schedule(prefill=10, max_emitted=1)
    lost.complete(1)
    lost.emitted = 1
    lost.schedule(prefill=0, max_emitted=4)
    lost.reset()
    assert (lost.unprefilled, lost.steps_in_flight, lost.max_pending, lost.remaining_tokens) == (
        11,
        0,
        0,
        7,
    )


def test_the_state_of_a_row_follows_from_what_happens_to_it() -> None:
    served = row()
    states = [served.state]

    def then() -> None:
        states.append(served.state)

    served.schedule(prefill=6, max_emitted=0)
    then()
    served.schedule(prefill=4, max_emitted=1)
    served.complete(0)
    served.apply_outcome(Outcome(1, 6, 0, 0, 0, 0.1))
    then()
    served.complete(1)
    served.apply_outcome(Outcome(1, 4, 0, 0, 1, 0.1))
    then()
    served.schedule(prefill=0, max_emitted=4)
    then()
    served.complete(4)
    served.apply_outcome(Outcome(1, 0, 3, 1, 2, 0.1))
    served.host_slots = (0, 1)
    then()
    served.host_slots = ()
    served.swap_in()
    then()
    served.complete(0)
    then()
    served.reset()
    then()
    served.end()
    then()
    assert [state.name for state in states] == [
        "WAITING",
        "PREFILLING",
        "PREFILLING",
        "KEPT",
        "DECODING",
        "SWAPPED",
        "RETURNING",
        "KEPT",
        "WAITING",
        "ENDED",
    ]


def test_a_row_that_lacks_only_its_last_known_token_decodes() -> None:
    shared = row()
    shared.start_from_cache(9, 9)
    shared.schedule(prefill=1, max_emitted=1)
    assert shared.state is RowState.DECODING


def test_every_state_has_its_transitions_and_only_the_end_has_none() -> None:
    assert TRANSITIONS.keys() == set(RowState)
    assert [state for state, following in TRANSITIONS.items() if not following] == [RowState.ENDED]
