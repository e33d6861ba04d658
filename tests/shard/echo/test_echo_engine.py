"""The echo engine: a pure reply, the same under every plan, and a strict judge of Steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard.echo.echo_cache import PAGE_SIZE
from shard.echo.echo_engine import EchoEngine
from shard.echo.replies import EOS, draft_agrees, full_reply
from shard.wire.protocol import (
    AppendPages,
    End,
    NewRow,
    PageCopy,
    ProtocolError,
    RowResult,
    RowWork,
    Sampling,
    Step,
)
from tests.support.ranks import ECHO

PROMPT = (5, 6, 7, 8, 9)


def new(id: int = 1, max_new: int = 20, seed: int = 0, ignore_eos: bool = False) -> NewRow:
    return NewRow(id, PROMPT, len(PROMPT), max_new, ignore_eos, Sampling(seed=seed))


class Driver:
    """Numbers the Steps of one engine."""

    def __init__(self, **changes: Any) -> None:
        self.engine = EchoEngine(replace(ECHO, **changes))
        self.number = 0

    def step(
        self,
        *run: RowWork,
        new: Sequence[NewRow] = (),
        grow: Sequence[AppendPages] = (),
        release: Sequence[int] = (),
        **moves: PageCopy,
    ) -> tuple[RowResult, ...]:
        self.number += 1
        step = Step(self.number, tuple(release), tuple(new), tuple(grow), run, **moves)
        return self.engine.execute(step).items

    def start(self, row: NewRow, pages: int = 4) -> tuple[RowResult, ...]:
        grow = AppendPages(row.id, tuple(range(1, pages + 1)))
        return self.step(RowWork(row.id, len(row.tokens), 0), new=[row], grow=[grow])


@given(
    seed=st.integers(0, 2**64 - 1),
    max_new=st.integers(1, 40),
    ignore_eos=st.booleans(),
    data=st.data(),
)
@settings(max_examples=200, deadline=None)
def test_any_plan_of_chunks_and_drafts_gives_the_same_reply(
    seed: int, max_new: int, ignore_eos: bool, data: st.DataObject
) -> None:
    row, driver = new(1, max_new, seed, ignore_eos), Driver()
    chunk = data.draw(st.integers(1, len(PROMPT)))
    grow = [AppendPages(1, (1, 2, 3))]
    items = [*driver.step(RowWork(1, chunk, 0), new=[row], grow=grow)]
    if chunk < len(PROMPT):
        assert items[0].tokens == ()
        items += driver.step(RowWork(1, len(PROMPT) - chunk, 0))
    while items[-1].end is None:
        items += driver.step(RowWork(1, 0, data.draw(st.integers(0, 3))))
    tokens = tuple(token for item in items for token in item.tokens)
    assert (tokens, items[-1].end) == full_reply(PROMPT, seed, max_new, ignore_eos)
    assert all(item.accepted <= min(item.drafted, len(item.tokens)) for item in items)


@given(seed=st.integers(0, 1000), max_new=st.integers(2, 40), cut=st.integers(1, 39))
@settings(max_examples=100, deadline=None)
def test_a_row_that_comes_back_goes_on_where_it_was(seed: int, max_new: int, cut: int) -> None:
    whole, end = full_reply(PROMPT, seed, max_new)
    emitted = whole[: min(cut, len(whole) - 1)]
    row = replace(new(1, max_new, seed), tokens=PROMPT + emitted)
    driver = Driver()
    items = list(driver.start(row))
    while items[-1].end is None:
        items += driver.step(RowWork(1, 0, 3))
    rest = tuple(token for item in items for token in item.tokens)
    assert (emitted + rest, items[-1].end) == (whole, end)


def test_replies_end_by_length_and_by_eos() -> None:
    ends = {full_reply(PROMPT, seed, 40)[1] for seed in range(40)}
    assert ends == {End.LENGTH, End.EOS}


def test_an_ignored_eos_may_be_emitted_and_does_not_end() -> None:
    seed = next(seed for seed in range(100) if full_reply(PROMPT, seed, 40)[1] is End.EOS)
    tokens, end = full_reply(PROMPT, seed, 40, ignore_eos=True)
    assert EOS in tokens
    assert (len(tokens), end) == (40, End.LENGTH)


def test_drafts_are_accepted_in_part() -> None:
    agreed = [draft_agrees(0, position) for position in range(400)]
    assert 240 < sum(agreed) < 360


def test_an_ended_row_is_skipped() -> None:
    driver = Driver()
    assert driver.start(new(max_new=1))[0].end is End.LENGTH
    assert driver.step(RowWork(1, 0, 3)) == ()


def test_pages_of_a_released_row_serve_another_in_the_same_step() -> None:
    driver = Driver()
    driver.start(new(1), pages=2)
    row = new(2)
    items = driver.step(
        RowWork(2, len(PROMPT), 0), release=[1], new=[row], grow=[AppendPages(2, (2, 1))]
    )
    assert len(items[0].tokens) == 1


def test_a_reset_forgets_rows_and_pages() -> None:
    driver = Driver()
    empty = driver.engine.digest()
    driver.start(new())
    driver.engine.reset()
    assert driver.engine.digest() == empty
    driver.start(new())


def test_equal_steps_have_equal_digests_and_others_do_not() -> None:
    drivers = [Driver(), Driver(), Driver()]
    for driver, pages in zip(drivers, (2, 2, 3), strict=True):
        driver.start(new(), pages)
    digests = [driver.engine.digest() for driver in drivers]
    assert digests[0] == digests[1] != digests[2]


def test_a_run_beyond_its_pages_is_refused() -> None:
    driver = Driver()
    driver.start(new(max_new=40, ignore_eos=True), pages=1)
    for _ in range(PAGE_SIZE - len(PROMPT)):
        driver.step(RowWork(1, 0, 0))
    with pytest.raises(ProtocolError, match=f"feeds {PAGE_SIZE + 1} tokens into pages for"):
        driver.step(RowWork(1, 0, 0))


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ({"run": [RowWork(2, 0, 0)]}, "no row 2"),
        ({"release": [2]}, "no row 2"),
        ({"grow": [AppendPages(2, (9,))]}, "no row 2"),
        ({"grow": [AppendPages(1, (1,))]}, "page 1 has an owner"),
        ({"grow": [AppendPages(1, (0,))]}, "no page 0"),
        ({"grow": [AppendPages(1, (99999,))]}, "no page 99999"),
        ({"new": [new(1)]}, "not new"),
        ({"new": [new(2, max_new=0)]}, "no token left"),
        ({"new": [new(2, max_new=9999)]}, "may exceed"),
        ({"new": [replace(new(2), prompt=6)]}, "has a prompt of 6"),
        ({"run": [RowWork(1, 2, 0)]}, "fed unknown tokens"),
        ({"run": [RowWork(1, 1, 1)]}, "drafts during its prefill"),
        ({"run": [RowWork(1, 0, 4)]}, "drafts 4"),
        ({"run": [RowWork(1, 0, 0), RowWork(1, 0, 0)]}, "named twice"),
        ({"new": [new(2)], "run": [RowWork(2, 0, 0)]}, "before its prefill"),
        ({"run": [RowWork(1, 0, 0)] * 65}, "65 rows"),
    ],
)
def test_a_step_against_the_rules_is_refused(step: dict[str, list[object]], reason: str) -> None:
    driver = Driver()
    driver.start(new())
    run = step.pop("run", [])
    with pytest.raises(ProtocolError, match=reason):
        driver.step(*run, **step)  # type: ignore[arg-type]


LONG = tuple(range(5, 45))
"""A prompt of two full pages and a half."""


def long(id: int, **more: Any) -> NewRow:
    return replace(new(id, ignore_eos=True), tokens=LONG, prompt=len(LONG), **more)


def test_a_row_may_start_on_the_settled_pages_of_another() -> None:
    driver = Driver()
    driver.start(long(1))
    sharer = long(2, cached=32, draft_cached=32)
    [item] = driver.step(RowWork(2, 8, 0), new=[sharer], grow=[AppendPages(2, (1, 2, 9))])
    assert item.tokens == full_reply(LONG, 0, 20, True)[0][:1]
    driver.step(RowWork(1, 0, 3), RowWork(2, 0, 3))


def test_a_page_that_no_draft_has_seen_is_shared_and_filled_by_whoever_drafts() -> None:
    driver = Driver()
    tokens = list(driver.start(long(1), pages=5)[0].tokens)
    while len(tokens) < 10:
        tokens += driver.step(RowWork(1, 0, 0))[0].tokens
    sharer = replace(long(2, cached=48, draft_cached=32), tokens=(*LONG, *tokens))
    [item] = driver.step(RowWork(2, 2, 0), new=[sharer], grow=[AppendPages(2, (1, 2, 3, 9))])
    assert item.draft_cached == 32
    assert [item.draft_cached > 48 for item in driver.step(RowWork(1, 0, 3), RowWork(2, 0, 3))] == [
        True
    ] * 2


def test_a_row_comes_back_from_the_host_and_then_decodes() -> None:
    driver = Driver(max_swap_tokens=64)
    first = driver.start(long(1))[0].tokens
    driver.step(release=[1], swap_out=PageCopy((1, 2, 3), (2, 0, 1)))
    driver.start(long(2), pages=4)  # its pages are overwritten
    back = long(1, cached=40, draft_cached=40)
    back = replace(back, tokens=LONG + first)
    grow, moves = AppendPages(1, (7, 8, 9)), PageCopy((2, 0, 1), (7, 8, 9))
    assert not driver.step(RowWork(2, 0, 0), new=[back], grow=[grow], swap_in=moves)[1:]
    [item] = driver.step(RowWork(1, 0, 3))
    assert first + item.tokens == full_reply(LONG, 0, 20, True)[0][: 1 + len(item.tokens)]


def test_a_row_does_not_run_while_its_pages_are_on_their_way() -> None:
    driver = Driver(max_swap_tokens=64)
    first = driver.start(long(1))[0].tokens
    driver.step(release=[1], swap_out=PageCopy((1, 2, 3), (2, 0, 1)))
    back = replace(long(1, cached=40, draft_cached=40), tokens=LONG + first)
    grow, moves = AppendPages(1, (7, 8, 9)), PageCopy((2, 0, 1), (7, 8, 9))
    with pytest.raises(ProtocolError, match="row 1 runs too soon"):
        driver.step(RowWork(1, 0, 3), new=[back], grow=[grow], swap_in=moves)


@pytest.mark.parametrize(
    ("row", "pages", "moves", "reason"),
    [
        ({"cached": 32, "draft_cached": 32}, (2, 1, 9), {}, "page 2 does not hold what position 0"),
        ({"cached": 39, "draft_cached": 32}, (1, 2, 3), {}, "page 3 has an owner"),
        ({"cached": 31, "draft_cached": 16}, (1, 2, 9), {}, "page 2 has an owner"),
        ({"cached": 40, "draft_cached": 40}, (1, 2, 3), {}, "does not feed its last token"),
        ({"cached": 16, "draft_cached": 32}, (1, 2, 9), {}, "the draft of row 2 is ahead"),
        ({"cached": 39}, (7, 8, 9), {"copy": PageCopy((1, 2), (7, 8))}, "page 9 does not hold"),
        ({}, (7, 8, 9), {"swap_in": PageCopy((0,), (7,))}, "a move of what was never filled"),
        ({}, (7, 8, 9), {"swap_in": PageCopy((4,), (7,))}, "there is no such host slot"),
        ({}, (7, 8, 9), {"copy": PageCopy((1, 2), (7,))}, "as many targets as sources"),
        ({"cached": 32, "draft_cached": 32}, (1,), {}, "claims 32 tokens in pages for 16"),
    ],
)
def test_a_false_claim_to_cached_tokens_is_refused(
    row: dict[str, int], pages: tuple[int, ...], moves: dict[str, PageCopy], reason: str
) -> None:
    driver = Driver(max_swap_tokens=64)
    driver.start(long(1))
    new, grow = [long(2, **row)], [AppendPages(2, pages)]
    with pytest.raises(ProtocolError, match=reason):
        driver.step(new=new, grow=grow, release=(), **moves)


def test_a_page_that_is_shared_is_not_written() -> None:
    driver = Driver()
    driver.start(replace(long(1), tokens=LONG[:31], prompt=31))
    sharer = replace(long(2, cached=16, draft_cached=16), tokens=LONG[:31], prompt=31)
    driver.step(new=[sharer], grow=[AppendPages(2, (1, 9))])
    early = replace(sharer, id=3)
    driver.step(new=[early], grow=[AppendPages(3, (1, 8))])
    assert driver.step(RowWork(3, 15, 0), RowWork(1, 0, 0))
    driver.engine._cache.acquire(9, shared=True)
    with pytest.raises(ProtocolError, match="page 9 is written and shared"):
        driver.step(RowWork(2, 15, 0))
