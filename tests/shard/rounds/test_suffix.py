"""Suffix decoding: what it proposes by hand, and what answers it keeps and for whom."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard.batch.rows import CachedRow
from shard.rounds.drafter import DraftRequest
from shard.rounds.suffix import (
    MAX_PLACES,
    RecentAnswers,
    SuffixDrafter,
    SuffixIndex,
    continuation,
)
from tests.support.samplings import GREEDY


def row(id: int, tokens: list[int], prompt: int, scope: str = "") -> CachedRow:
    return CachedRow(id, tokens, prompt, 50, False, GREEDY, cached=len(tokens) - 1, scope=scope)


def proposal(drafter: SuffixDrafter, row: CachedRow, count: int = 16) -> list[int]:
    request = DraftRequest(row, count)
    drafter.propose([request], [])
    return request.drafts


@pytest.mark.parametrize(
    ("tokens", "drafts"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3], [4, 5, 6, 7]),  # 3 / (3 + 4) is above 0.4
        ([1, 2, 3, 4, 0, 1, 2, 3, 5, 9, 1, 2, 3], []),  # two places, of which neither is likely
        ([1, 2, 3, 4, 9, 1, 2, 3, 4, 8, 1, 2, 3], [4]),  # both agree on one token
        ([6, 0, 1, 2, 3, 4, 9, 1, 2, 3, 5, 6, 0, 1, 2, 3], [4, 9, 1, 2, 3, 5, 6]),  # the longer
        ([5, 6, 7] * 5, [5, 6, 7] * 5 + [5]),  # beyond its own end
        ([1, 2, 9, 1, 2], []),  # two tokens are too few
        ([3], []),
    ],
)
def test_the_longest_matches_vote_and_a_draft_is_about_as_long_as_its_match(
    tokens: list[int], drafts: list[int]
) -> None:
    assert proposal(SuffixDrafter(), row(1, tokens, len(tokens))) == drafts


def test_a_draft_is_never_longer_than_requested() -> None:
    assert proposal(SuffixDrafter(), row(1, [5, 6, 7] * 5, 15), 4) == [5, 6, 7, 5]


def test_the_answers_of_completed_rows_are_drafted_within_their_scope_alone() -> None:
    drafter = SuffixDrafter()
    answered = row(1, [0, *range(10, 30)], 1, "a")
    proposal(drafter, answered)
    answered.done = True
    drafter.remove([1])
    asked = [7, 8, 12, 13, 14, 15]
    assert proposal(drafter, row(2, asked[:], 3, "a"))[:4] == [16, 17, 18, 19]
    assert proposal(drafter, row(3, asked[:], 3, "b")) == []
    drafter.clear()
    assert proposal(drafter, row(4, asked[:], 3, "a")) == []


@pytest.mark.parametrize("tokens", [[10, 11, 12, 13], [0, 1, 2, 3, 4, 5, 6]], ids=["prompt", "cut"])
def test_prompts_and_rows_that_did_not_complete_are_not_kept(tokens: list[int]) -> None:
    drafter = SuffixDrafter()
    left = row(1, [*tokens, 50], len(tokens))
    proposal(drafter, left)
    left.done = tokens[0] == 10
    drafter.remove([1])
    assert proposal(drafter, row(2, tokens[:3], 3)) == []


def test_old_answers_leave_and_nothing_of_them_stays() -> None:
    answers = RecentAnswers(max_tokens=40)
    for start in (100, 200, 300):
        answers.add("a", [*range(start, start + 15)])
    answers.add("b", [*range(400, 410)])
    assert answers.find("a", [100, 101, 102]) == answers.find("a", [400, 401, 402]) == []
    assert answers.find("a", [200, 201, 202])
    assert [end for _, end in answers.find("a", [300, 301, 302])] == [3]
    assert [end for _, end in answers.find("b", [400, 401, 402])] == [3]
    answers.add("c", [*range(500, 540)])
    assert set(answers._by_scope) == {"c"}


texts = st.lists(st.lists(st.integers(0, 3), max_size=30), max_size=6)


@given(texts)
def test_an_index_without_its_oldest_text_is_that_of_the_others(lists: list[list[int]]) -> None:
    index, others = SuffixIndex(), SuffixIndex()
    for text in lists:
        index.add(text, 0, len(text))
    for text in lists[1:]:
        others.add(text, 0, len(text))
    if lists:
        index.discard(lists[0])
    assert index._places.keys() <= others._places.keys()
    for run, places in index._places.items():
        assert places == others._places[run][-len(places) :]
        assert len(places) <= MAX_PLACES


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(1, 12), st.integers(0, 80))
def test_it_is_the_same_however_often_the_row_was_looked_at(
    tokens: list[int], count: int, seen: int
) -> None:
    """Only the order in which runs were indexed may differ, and it does not."""
    grown = row(1, tokens[: max(1, seen)], 1)
    drafter = SuffixDrafter()
    proposal(drafter, grown, count)
    grown.tokens += tokens[max(1, seen) :]
    once = proposal(SuffixDrafter(), row(2, tokens[:], 1), count)
    assert proposal(drafter, grown, count) == once
    assert len(once) <= count


def test_what_it_proposes_occurred_after_an_equal_run() -> None:
    rng = random.Random(2)
    for _ in range(200):
        tokens = rng.choices(range(4), k=rng.randrange(1, 60))
        for draft in continuation_steps(tokens):
            assert draft in {
                tokens[i] for i in range(3, len(tokens)) if tokens[i - 3 : i] == tokens[-3:]
            }


def continuation_steps(tokens: list[int]) -> list[int]:
    index = SuffixIndex()
    index.add(tokens, 0, len(tokens))
    return continuation(tokens, index.find(tokens), 1)
