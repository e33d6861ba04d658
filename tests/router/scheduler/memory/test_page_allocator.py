import itertools
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from router.scheduler.memory.page_allocator import OutOfPages, PageAllocator


def runs(table: tuple[int, ...]) -> int:
    return 1 + sum(b != a + 1 for a, b in itertools.pairwise(table))


def test_growth_takes_the_adjacent_page() -> None:
    pages = PageAllocator(10)
    assert pages.allocate(1, 2) == (1, 2)
    assert pages.allocate(1, 3) == (3, 4, 5)
    assert pages.table(1) == (1, 2, 3, 4, 5)


def test_a_new_owner_leaves_the_pages_that_its_neighbour_expects() -> None:
    pages = PageAllocator(20)
    pages.allocate(1, 2, expected_pages=8)
    assert pages.allocate(2, 2, expected_pages=8) == (9, 10)
    pages.allocate(1, 6)
    pages.allocate(2, 6)
    assert runs(pages.table(1)) == runs(pages.table(2)) == 1


def test_a_new_owner_takes_the_smallest_run_that_holds_what_it_expects() -> None:
    pages = PageAllocator(30)
    for owner, count in ((1, 10), (2, 1), (3, 5), (4, 1), (5, 13)):
        pages.allocate(owner, count)
    for owner in (1, 3, 5):
        pages.release(owner)
    assert pages.allocate(6, 2, expected_pages=5) == (12, 13)
    assert pages.allocate(7, 2, expected_pages=9) == (1, 2)
    assert pages.allocate(8, 2, expected_pages=12) == (18, 19)


def test_expected_pages_are_given_away_when_nothing_else_is_free() -> None:
    pages = PageAllocator(6)
    pages.allocate(1, 1, expected_pages=6)
    assert pages.allocate(2, 2, expected_pages=2) == (6, 5), "the far end of the neighbour's room"
    assert pages.allocate(1, 3) == (2, 3, 4)
    assert pages.free == 0


def test_growth_without_an_adjacent_page_goes_to_another_run() -> None:
    pages = PageAllocator(6)
    pages.allocate(1, 2)
    pages.allocate(2, 1)
    assert pages.allocate(1, 2) == (4, 5)


def test_a_request_larger_than_every_run_is_served_in_pieces() -> None:
    pages = PageAllocator(9)
    for owner in range(1, 10):
        pages.allocate(owner, 1)
    for owner in (1, 2, 5, 8, 9):
        pages.release(owner)
    assert sorted(pages.allocate(10, 5)) == [1, 2, 5, 8, 9]


def test_adjacent_freed_pages_merge_into_one_run() -> None:
    pages = PageAllocator(9)
    for owner in (1, 2, 3):
        pages.allocate(owner, 3)
    assert pages.release(1) == (1, 2, 3)
    assert pages.release(3) == (7, 8, 9)
    pages.release(2)
    assert pages.allocate(4, 9) == tuple(range(1, 10))


def test_misuse_is_refused_and_changes_nothing() -> None:
    pages = PageAllocator(3)
    pages.allocate(1, 2)
    with pytest.raises(OutOfPages, match="2 pages requested, 1 free"):
        pages.allocate(2, 2)
    assert pages.page_count(2) == 0
    with pytest.raises(ValueError, match="cannot allocate 0"):
        pages.allocate(1, 0)
    with pytest.raises(KeyError):
        pages.release(2)
    with pytest.raises(KeyError):
        pages.table(2)
    with pytest.raises(ValueError, match="at least one page"):
        PageAllocator(0)
    assert pages.free == 1


@given(st.integers(1, 40), st.integers(0, 1 << 32))
def test_every_page_is_free_or_owned_once(count: int, seed: int) -> None:
    random, pages, owned = Random(seed), PageAllocator(count), dict[int, list[int]]()
    for _ in range(60):
        owner, want = random.randrange(6), random.randint(1, 6)
        if owner in owned and random.random() < 0.3:
            assert list(pages.release(owner)) == owned.pop(owner)
        elif want <= pages.free:
            owned.setdefault(owner, []).extend(pages.allocate(owner, want, random.randint(0, 12)))
        every = [page for table in owned.values() for page in table]
        assert len(set(every)) == len(every) == count - pages.free
        assert set(every) <= set(range(1, count + 1))
        assert all(pages.table(o) == tuple(table) for o, table in owned.items())


def test_published_pages_are_shared_by_those_who_name_them() -> None:
    pages = PageAllocator(10)
    pages.allocate(1, 4)
    pages.publish(1, [11, 12, 13])
    assert pages.open_table(2, [11, 12, 99, 13]) == 2
    pages.allocate(2, 2)
    assert pages.table(2)[:2] == (1, 2)
    assert pages.free == 10 - 4 - 2
    assert pages.shared_length(1) == 2
    assert pages.release(1) == (1, 2, 3, 4)
    assert pages.free == 10 - 4, "two are still owned"


def test_a_prefix_outlives_its_owner_until_its_pages_are_needed() -> None:
    pages = PageAllocator(6)
    for owner, names in ((1, [11, 12]), (2, [21, 22])):
        pages.allocate(owner, 2)
        pages.publish(owner, names)
    pages.release(2)
    pages.release(1)
    assert pages.free == 6
    pages.allocate(3, 3)
    assert (pages.match_length([11, 12]), pages.match_length([21, 22])) == (2, 1), (
        "the end of the oldest first"
    )
    pages.allocate(3, 1)
    assert (pages.match_length([11, 12]), pages.match_length([21, 22])) == (2, 0)
    assert pages.open_table(4, [11, 12]) == 2
    with pytest.raises(OutOfPages, match="1 pages requested, 0 free"):
        pages.allocate(4, 1)


def test_an_owner_cannot_take_more_than_it_reserved() -> None:
    pages = PageAllocator(10)
    pages.open_table(1, reserved_pages=3)
    pages.allocate(1, 2)
    with pytest.raises(OutOfPages, match="2 pages requested, 1 reserved"):
        pages.allocate(1, 2)
    assert pages.page_count(1) == 2


def test_equal_content_is_published_once_and_a_retracted_one_not_at_all() -> None:
    pages = PageAllocator(10)
    for owner in (1, 2):
        pages.allocate(owner, 2)
        pages.publish(owner, [11, 12])
    pages.unpublish(2)
    assert pages.find(11) == pages.table(1)[0]
    pages.unpublish(1)
    assert pages.match_length([11]) == 0
    pages.release(1)
    assert pages.free == 8


def test_pages_freed_by_a_release_are_those_without_other_owners() -> None:
    pages = PageAllocator(10)
    pages.allocate(1, 3)
    pages.publish(1, [11, 12])
    pages.open_table(2, [11, 12])
    pages.allocate(2, 1)
    dropped = Counter[int]()
    assert pages.pages_freed_by(2, dropped) == 1
    assert pages.pages_freed_by(1, dropped) == 3, (
        "with both released their shared pages have no owner"
    )


class AllocatorMachine(RuleBasedStateMachine):
    """Owners write to pages that they alone own, publish, share and leave, in any order."""

    @initialize(count=st.integers(1, 24))
    def start(self, count: int) -> None:
        self.count, self.pages = count, PageAllocator(count)
        self.tables: dict[int, list[int]] = {}
        self.published: dict[int, int] = {}
        """Leading pages that an owner writes no more."""
        self.holds: dict[int, int] = {}
        """What was last written to a page: the prefix it stands for."""
        self.prefix: dict[int, list[int]] = {}
        """The names of each owner's pages, equal for equal prefixes."""
        self.next = 0

    @rule(family=st.integers(0, 2), length=st.integers(0, 6), expected=st.integers(0, 8))
    def open(self, family: int, length: int, expected: int) -> None:
        self.next += 1
        names = [hash((family, index)) for index in range(length)]
        shared = self.pages.open_table(self.next, names, expected)
        self.tables[self.next] = list(self.pages.table(self.next))
        self.prefix[self.next] = [hash((family, index)) for index in range(40)]
        self.published[self.next] = shared
        assert [self.holds[page] for page in self.tables[self.next]] == names[:shared]

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), count=st.integers(1, 5))
    def grow(self, data: st.DataObject, count: int) -> None:
        owner = data.draw(st.sampled_from(list(self.tables)))
        if count > self.pages.free:
            with pytest.raises(OutOfPages):
                self.pages.allocate(owner, count)
            return
        fresh = self.pages.allocate(owner, count)
        owned = {page for table in self.tables.values() for page in table}
        assert owned.isdisjoint(fresh), "a page in use was given away"
        for page in fresh:
            self.holds[page] = self.prefix[owner][len(self.tables[owner])]
            self.tables[owner].append(page)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(list(self.tables)))
        first = self.published[owner]
        upto = data.draw(st.integers(first, len(self.tables[owner])))
        self.pages.publish(owner, self.prefix[owner][first:upto], first)
        self.published[owner] = upto

    @precondition(lambda self: self.tables)
    @rule(data=st.data(), retract=st.booleans())
    def leave(self, data: st.DataObject, retract: bool) -> None:
        owner = data.draw(st.sampled_from(list(self.tables)))
        if retract:
            self.pages.unpublish(owner)
        assert list(self.pages.release(owner)) == self.tables.pop(owner)

    @invariant()
    def pages_are_conserved_and_never_shared_while_written(self) -> None:
        if not hasattr(self, "pages"):
            return
        owners = Counter(page for table in self.tables.values() for page in table)
        assert len(owners) + self.pages.free == self.count
        assert self.pages.shared == sum(count > 1 for count in owners.values())
        assert 0 <= self.pages.cached <= self.pages.free
        assert set(owners) <= set(range(1, self.count + 1))
        for owner, table in self.tables.items():
            assert self.pages.table(owner) == tuple(table)
            assert all(owners[page] == 1 for page in table[self.published[owner] :])

    def teardown(self) -> None:
        if hasattr(self, "pages"):
            for owner in self.tables:
                self.pages.release(owner)
            assert self.pages.free == self.count
            assert len(self.pages.allocate(0, self.count)) == self.count


def test_no_order_of_operations_loses_or_mixes_pages() -> None:
    rules = settings(max_examples=60, stateful_step_count=50, deadline=None)
    run_state_machine_as_test(AllocatorMachine, settings=rules)


def test_ten_thousand_random_operations_leak_nothing() -> None:
    random, machine = Random(11), AllocatorMachine()
    machine.start(64)
    for _ in range(10_000):
        owner = random.choice(list(machine.tables) or [0])
        match random.randrange(5):
            case 0 if len(machine.tables) < 12:
                machine.open(random.randrange(3), random.randrange(8), random.randrange(10))
            case 1 | 2 if owner and len(machine.tables[owner]) < 20:
                _grow(machine, owner, random.randint(1, 4))
            case 3 if owner:
                upto = random.randint(machine.published[owner], len(machine.tables[owner]))
                first = machine.published[owner]
                machine.pages.publish(owner, machine.prefix[owner][first:upto], first)
                machine.published[owner] = upto
            case 4 if owner:
                assert list(machine.pages.release(owner)) == machine.tables.pop(owner)
        machine.pages_are_conserved_and_never_shared_while_written()
    machine.teardown()


def _grow(machine: AllocatorMachine, owner: int, count: int) -> None:
    if count <= machine.pages.free:
        for page in machine.pages.allocate(owner, count):
            machine.holds[page] = machine.prefix[owner][len(machine.tables[owner])]
            machine.tables[owner].append(page)
