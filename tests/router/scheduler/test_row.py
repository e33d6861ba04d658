from router.scheduler.acceptance import Survival
from router.scheduler.api import Job
from router.scheduler.row import Row


def row() -> Row:
    return Row(Job(1, 0.0, 10, 8), Survival.unknown(3), 3)


def test_steps_in_flight_narrow_what_is_left_until_they_land() -> None:
    flying = row()
    flying.fly(prefill=6, possible=0)
    flying.fly(prefill=4, possible=1)
    flying.fly(prefill=0, possible=4)
    assert (flying.unfed, flying.in_flight) == (0, 3)
    assert (flying.remaining, flying.possible) == (6, 5)
    for possible in (0, 1, 4):
        flying.land(possible)
    assert (flying.remaining, flying.possible, flying.in_flight) == (8, 0, 0)


def test_a_row_without_kv_starts_from_its_first_token_with_what_it_emitted() -> None:
    lost = row()
    lost.fly(prefill=10, possible=1)
    lost.land(1)
    lost.emitted = 1
    lost.fly(prefill=0, possible=4)
    lost.forget()
    assert (lost.unfed, lost.in_flight, lost.possible, lost.remaining) == (11, 0, 0, 7)
