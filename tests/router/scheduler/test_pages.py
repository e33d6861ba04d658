import itertools
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.scheduler.pages import OutOfPages, Pages


def runs(table: tuple[int, ...]) -> int:
    return 1 + sum(b != a + 1 for a, b in itertools.pairwise(table))


def test_growth_takes_the_adjacent_page() -> None:
    pages = Pages(10)
    assert pages.take(1, 2) == (1, 2)
    assert pages.take(1, 3) == (3, 4, 5)
    assert pages.table(1) == (1, 2, 3, 4, 5)


def test_a_newcomer_leaves_room_for_what_its_neighbour_hopes_for() -> None:
    pages = Pages(20)
    pages.take(1, 2, hope=8)
    assert pages.take(2, 2, hope=8) == (9, 10)
    pages.take(1, 6)
    pages.take(2, 6)
    assert runs(pages.table(1)) == runs(pages.table(2)) == 1


def test_a_newcomer_takes_the_tightest_run_that_holds_what_it_hopes_for() -> None:
    pages = Pages(30)
    for owner, count in ((1, 10), (2, 1), (3, 5), (4, 1), (5, 13)):
        pages.take(owner, count)
    for owner in (1, 3, 5):
        pages.give_back(owner)
    assert pages.take(6, 2, hope=5) == (12, 13)
    assert pages.take(7, 2, hope=9) == (1, 2)
    assert pages.take(8, 2, hope=12) == (18, 19)


def test_hopes_give_way_when_nothing_else_is_free() -> None:
    pages = Pages(6)
    pages.take(1, 1, hope=6)
    assert pages.take(2, 2, hope=2) == (6, 5), "the far end of the neighbour's room"
    assert pages.take(1, 3) == (2, 3, 4)
    assert pages.free == 0


def test_growth_without_an_adjacent_page_goes_to_another_run() -> None:
    pages = Pages(6)
    pages.take(1, 2)
    pages.take(2, 1)
    assert pages.take(1, 2) == (4, 5)


def test_a_request_larger_than_every_run_is_served_in_pieces() -> None:
    pages = Pages(9)
    for owner in range(1, 10):
        pages.take(owner, 1)
    for owner in (1, 2, 5, 8, 9):
        pages.give_back(owner)
    assert sorted(pages.take(10, 5)) == [1, 2, 5, 8, 9]


def test_freed_neighbours_merge_into_one_run() -> None:
    pages = Pages(9)
    for owner in (1, 2, 3):
        pages.take(owner, 3)
    assert pages.give_back(1) == (1, 2, 3)
    assert pages.give_back(3) == (7, 8, 9)
    pages.give_back(2)
    assert pages.take(4, 9) == tuple(range(1, 10))


def test_misuse_is_refused_and_changes_nothing() -> None:
    pages = Pages(3)
    pages.take(1, 2)
    with pytest.raises(OutOfPages, match="2 pages wanted, 1 free"):
        pages.take(2, 2)
    assert pages.held(2) == 0
    with pytest.raises(ValueError, match="cannot take 0"):
        pages.take(1, 0)
    with pytest.raises(KeyError):
        pages.give_back(2)
    with pytest.raises(KeyError):
        pages.table(2)
    with pytest.raises(ValueError, match="holds nothing"):
        Pages(0)
    assert pages.free == 1


@given(st.integers(1, 40), st.integers(0, 1 << 32))
def test_every_page_is_free_or_owned_once(count: int, seed: int) -> None:
    random, pages, owned = Random(seed), Pages(count), dict[int, list[int]]()
    for _ in range(60):
        owner, want = random.randrange(6), random.randint(1, 6)
        if owner in owned and random.random() < 0.3:
            assert list(pages.give_back(owner)) == owned.pop(owner)
        elif want <= pages.free:
            owned.setdefault(owner, []).extend(pages.take(owner, want, random.randint(0, 12)))
        every = [page for table in owned.values() for page in table]
        assert len(set(every)) == len(every) == count - pages.free
        assert set(every) <= set(range(1, count + 1))
        assert all(pages.table(o) == tuple(table) for o, table in owned.items())
