"""Prompt lookup: what it proposes, by hand and against the definition."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard.batch.rows import CachedRow
from shard.rounds.drafter import DraftRequest
from shard.rounds.ngram import MAX_MATCH_TOKENS, MIN_MATCH_TOKENS, NgramDrafter, continuation
from shard.wire.protocol import ReportOptions, Sampling


def propose(tokens: list[int], count: int) -> list[int]:
    return continuation(tokens, bytearray(array("i", tokens).tobytes()), count)


@pytest.mark.parametrize(
    ("tokens", "drafts"),
    [
        ([1, 2, 3, 4, 9, 1, 2], [3, 4, 9]),
        ([1, 2, 3, 1, 2, 4, 5, 1, 2], [4, 5, 1]),  # the latest of two
        ([7, 1, 2, 3, 0, 8, 1, 2, 4, 0, 7, 1, 2], [3, 0, 8]),  # the longer before the later
        ([5, 6, 5, 6], [5, 6, 5]),  # beyond its own end
        ([4, 4, 4], [4, 4, 4]),
        ([1, 2, 3, 4], []),
        ([1, 2, 3, 9, 3], []),  # one token is too few
        ([3], []),
        ([3, 3], []),
        ([256, 1, 7, 1, 0x0100], []),  # equal bytes, but not at a token's place
    ],
)
def test_it_copies_what_followed_the_longest_suffix_that_occurred_before(
    tokens: list[int], drafts: list[int]
) -> None:
    assert propose(tokens, 3) == drafts


def naive(tokens: list[int], count: int) -> list[int]:
    """The definition, word by word."""
    for length in range(min(MAX_MATCH_TOKENS, len(tokens) - 1), MIN_MATCH_TOKENS - 1, -1):
        for end in range(len(tokens) - 1, length - 1, -1):
            if tokens[end - length : end] == tokens[-length:]:
                text = list(tokens)
                for place in range(end, end + count):
                    text.append(text[place])
                return text[len(tokens) :]
    return []


ids = st.sampled_from([0, 1, 2, 256, 1 << 16, (1 << 24) + 1])


@given(st.lists(ids, min_size=1, max_size=60), st.integers(1, 9))
def test_it_is_its_definition(tokens: list[int], count: int) -> None:
    assert propose(tokens, count) == naive(tokens, count)


def test_a_row_that_grows_is_searched_to_its_last_token() -> None:
    drafter = NgramDrafter()
    row = CachedRow(1, [1, 2, 3, 4], 4, 20, False, Sampling(), ReportOptions(), None)
    for token in (9, 1, 2):
        ask = DraftRequest(row, 2)
        drafter.propose([ask], [])
        assert ask.drafts == []
        row.append([token], frozenset())
    ask = DraftRequest(row, 2)
    drafter.propose([ask], [])
    assert ask.drafts == [3, 4]
