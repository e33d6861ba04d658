"""The record of one request: what it takes in, what it returns, and the rows that it builds."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from router.errors import GenerationFailed, IncompleteGeneration
from router.requests.record import LiveRequest
from router.requests.request import Request
from router.requests.tokens import GeneratedToken
from router.text.tokenizer import Tokenizer
from shard.wire.protocol import End, ReportOptions, RowResult, Sampling, TopTokens
from tests.support.families import EOS, FAMILIES

TOKENIZER = FAMILIES["byte_level"]
VOCABULARY = Tokenizer(TOKENIZER)
A, B, C = (TOKENIZER.get_vocab()[letter] for letter in "abc")


def record(max_new: int = 10, prompt: tuple[int, ...] = (A, B), **more: Any) -> LiveRequest:
    request = Request("ab", Sampling(seed=3, temperature=1.0), **more)
    return LiveRequest(7, "mine", request, prompt, max_new, VOCABULARY, arrived=1.0)


def item(
    *ids: int, end: End | None = None, drafted: int = 0, accepted: int = 0, **more: Any
) -> RowResult:
    return RowResult(7, ids, tuple(-0.5 for _ in ids), drafted, accepted, end, **more)


async def read(source: LiveRequest) -> list[GeneratedToken]:
    return [source.tokens[number - 1] async for number in source.numbers()]


def test_a_row_is_made_from_the_record_alone_at_any_time() -> None:
    given = record(ignore_eos=True)
    first = given.to_row()
    given.apply(item(C, C), 2.0)
    again = given.to_row()
    assert (first.tokens, first.prompt, first.max_new) == ((A, B), 2, 10)
    assert (again.tokens, again.prompt, again.max_new) == ((A, B, C, C), 2, 10)
    assert (again.id, again.ignore_eos, again.sampling) == (7, True, given.request.sampling)


async def test_all_tokens_come_once_and_in_order_however_slowly_they_are_read() -> None:
    given = record()
    reading = asyncio.ensure_future(read(given))
    given.apply(item(A), 2.0)
    await asyncio.sleep(0)
    given.apply(item(B, C), 3.0)
    given.apply(item(A, B, end=End.LENGTH), 4.0)
    assert await reading == given.tokens
    assert given.output_ids == [A, B, C, A, B]
    assert given.text == "abcab"


def test_tokens_after_a_stop_string_are_not_kept() -> None:
    given = record(stop=("bc",))
    assert given.apply(item(A, B, C, A, end=End.EOS), 2.0) == 3
    assert (given.text, given.finish_reason) == ("abc", "stop_sequence")
    assert given.apply(item(B), 3.0) == 0
    assert given.output_ids == [A, B, C]


@pytest.mark.parametrize("end", [End.LENGTH, End.EOS])
def test_the_shards_end_is_named_before_a_stop_string_at_the_same_token(end: End) -> None:
    given = record(stop=("c",))
    given.apply(item(A, C, end=end), 2.0)
    assert given.finish_reason == end.value


def test_a_special_token_is_in_the_stream_and_not_in_the_text() -> None:
    given = record()
    given.apply(item(A, TOKENIZER.get_vocab()[EOS], end=End.EOS), 2.0)
    assert [(token.text, token.special) for token in given.tokens] == [("a", False), (EOS, True)]
    assert given.text == "a"


def test_times_and_counts_are_those_of_the_steps() -> None:
    given = record()
    given.mark_scheduled(2.0, 1)
    given.apply(item(), 3.0)
    given.apply(item(A), 4.0)
    given.mark_scheduled(5.0, 3)
    given.apply(item(B, C, drafted=3, accepted=1), 6.0)
    given.apply(item(C, end=End.LENGTH, drafted=2, accepted=0), 7.0)
    assert (given.arrived, given.started, given.first_token) == (1.0, 2.0, 4.0)
    assert (given.last_token, given.ended) == (7.0, 7.0)
    assert (given.steps, given.cached_tokens, given.drafted, given.accepted) == (4, 1, 5, 1)


async def test_a_bad_end_is_raised_after_the_tokens_that_came() -> None:
    given = record()
    given.apply(item(A), 2.0)
    given.fail(GenerationFailed("lost"), 3.0)
    stream = given.numbers()
    assert await anext(stream) == 1
    with pytest.raises(GenerationFailed, match="lost"):
        await anext(stream)


def test_only_the_first_end_counts() -> None:
    given = record()
    given.apply(item(A, end=End.LENGTH), 2.0)
    given.fail(GenerationFailed("too late"), 3.0)
    assert (given.error, given.ended, given.is_live) == (None, 2.0, False)


async def test_an_end_without_a_token_is_incomplete() -> None:
    given = record()
    given.apply(item(end=End.EOS), 2.0)
    with pytest.raises(IncompleteGeneration):
        await read(given)


def test_the_likeliest_tokens_come_with_their_own_texts() -> None:
    eos = TOKENIZER.get_vocab()[EOS]
    given = record(top_n_tokens=2)
    assert given.to_row().report == ReportOptions(top_n=2)
    tops = (TopTokens((A, eos), (-0.25, -0.5)), TopTokens((C, B), (-1.0, -2.0)))
    given.apply(item(A, B, top=tops), 2.0)
    assert [given.top_tokens(token) for token in given.tokens] == [
        (GeneratedToken(A, "a", -0.25, False), GeneratedToken(eos, EOS, -0.5, True)),
        (GeneratedToken(C, "c", -1.0, False), GeneratedToken(B, "b", -2.0, False)),
    ]


def test_accepted_drafts_come_before_the_target_s_token_which_counts_the_rejected_ones() -> None:
    given = record()
    given.apply(item(A), 1.0)
    given.apply(item(A, B, C, drafted=4, accepted=2), 2.0)
    given.apply(item(C, drafted=3), 3.0)
    assert [(token.drafted, token.rejected) for token in given.tokens] == [
        (False, 0),
        *((True, 0), (True, 0), (False, 2)),
        (False, 3),
    ]


def test_a_prompt_is_told_from_its_second_token_on_whatever_the_chunks() -> None:
    given = record(decoder_input_details=True, prompt=(A, B, C, A))
    assert given.to_row().report == ReportOptions(prompt_logprobs=True)
    given.apply(item(prompt_start=1, prompt_logprobs=(-0.25, -0.5)), 2.0)
    assert given.to_row().report == ReportOptions(
        prompt_logprobs=True
    )  # evicted between two chunks
    given.apply(item(prompt_start=1, prompt_logprobs=(-0.25,)), 3.0)
    given.apply(item(B, prompt_start=2, prompt_logprobs=(-0.5, -0.75)), 4.0)
    assert [(token.id, token.text) for token in given.prompt_tokens] == [
        (A, "a"),
        (B, "b"),
        (C, "c"),
        (A, "a"),
    ]
    assert [token.logprob for token in given.prompt_tokens] == [None, -0.25, -0.5, -0.75]
    assert given.to_row().report == ReportOptions()


def test_a_prompt_that_nobody_asked_for_is_not_told() -> None:
    given = record()
    assert (given.prompt_tokens, given.to_row().report) == ([], ReportOptions())


def test_sequences_are_compared_by_their_mean() -> None:
    given = record()
    assert given.mean_logprob == -math.inf
    given.apply(RowResult(7, (A, B), (-1.0, -2.0), 0, 0, None), 2.0)
    assert given.mean_logprob == -1.5


def test_the_seed_is_reported_where_there_is_noise() -> None:
    greedy = LiveRequest(7, "mine", Request("ab", Sampling(seed=3)), (A,), 1, VOCABULARY, 0.0)
    assert (record().seed, greedy.seed) == (3, None)


@pytest.mark.parametrize("hides", [False, True])
def test_an_end_token_that_the_tokenizer_takes_for_text_is_not_part_of_the_text(
    hides: bool,
) -> None:
    given = record(hide_stops_and_specials=hides)
    given.apply(item(A, B, end=End.EOS), 2.0)
    assert (given.text, given.finish_reason) == ("a", "eos_token")
    last = given.tokens[-1]
    assert (last.id, last.text, last.special) == (B, "" if hides else "b", True)


@pytest.mark.parametrize("hides", [False, True])
def test_the_last_token_of_a_complete_grammar_is_text(hides: bool) -> None:
    given = record(hide_stops_and_specials=hides)
    given.apply(item(A, B, end=End.COMPLETE), 2.0)
    assert (given.text, given.finish_reason) == ("ab", "eos_token")
    assert not given.tokens[-1].special


def test_the_budget_for_masks_grows_with_the_output() -> None:
    given = record()
    given.apply(item(A, mask_seconds=2.0), 2.0)
    assert given.mask_seconds < given.mask_budget
    given.apply(item(A, mask_seconds=0.5), 3.0)
    assert given.mask_seconds > given.mask_budget
