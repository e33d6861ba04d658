import pytest

from router.scheduler.acceptance import Survival
from router.scheduler.base import Job
from router.scheduler.drafting import draft_length
from router.scheduler.row import Row


def row(max_new: int, cap: int) -> Row:
    return Row(Job(1, 0.0, 4, max_new), Survival.unknown(5), cap)


@pytest.mark.parametrize(("max_new", "draft"), [(9, 3), (4, 3), (3, 2), (1, 0)])
def test_a_draft_never_reaches_beyond_the_last_token(max_new: int, draft: int) -> None:
    assert draft_length(row(max_new, 3)) == draft


def test_a_step_in_flight_takes_at_least_one_of_the_tokens_left() -> None:
    flying = row(4, 3)
    flying.fly(prefill=0, possible=3)
    assert draft_length(flying) == 2


def test_a_row_may_draft_nothing() -> None:
    assert draft_length(row(9, 0)) == 0
