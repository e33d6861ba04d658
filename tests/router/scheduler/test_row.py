from router.scheduler.acceptance import AcceptanceCurve
from router.scheduler.api import Job
from router.scheduler.row import Row


def row() -> Row:
    return Row(Job(1, 0.0, 10, 8), AcceptanceCurve.uninformed(3), 3)


def test_steps_in_flight_narrow_what_is_left_until_they_land() -> None:
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
