"""The order in which a request is checked and prepared, and what is held meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from router.config import Limits
from router.dispatch.intake import Intake
from router.dispatch.live_requests import PreparedRequest
from router.dispatch.page_hashes import PageHasher
from router.errors import Overloaded, ValidationError
from router.requests.request import Request, resolve_limits
from router.text.grammar import GrammarKind, GrammarSource
from router.text.tokenizer import Tokenizer
from shard.wire.protocol import Sampling
from tests.support.families import byte_level

PAGE_SIZE = 4
VOCABULARY = 100
PROMPT = tuple(range(10))
TOKENIZER = Tokenizer(byte_level())
SOURCE = GrammarSource(GrammarKind.REGEX, "a")


@dataclass
class Journal:
    """Plays every part around an intake and notes what it is asked for, in order."""

    requests: Sequence[Request]
    permits: int = 8
    source: GrammarSource | None = None
    steps: list[str] = field(default_factory=list)
    started: list[PreparedRequest] = field(default_factory=list)
    encoded: Sequence[int] = PROMPT
    tokenizer: Tokenizer = TOKENIZER

    async def precheck(self) -> Journal:
        self.steps.append("precheck")
        return self

    async def validate(self) -> Sequence[Request]:
        self.steps.append("validate")
        return self.requests

    def grammar(self) -> GrammarSource | None:
        self.steps.append("grammar")
        return self.source

    async def compile(self, source: GrammarSource | None) -> str | None:
        return None if source is None else f"compiled {source.text}"

    async def encode(self, text: str, add_special_tokens: bool) -> Sequence[int]:
        self.steps.append("encode")
        return self.encoded

    def now(self) -> float:
        return 7.0

    @contextmanager
    def hold_permits(self, count: int) -> Iterator[None]:
        self.steps.append(f"hold {count}")
        if count > self.permits:
            raise Overloaded
        self.permits -= count
        try:
            yield
        finally:
            self.permits += count

    async def wait_in_queue(self, record: PreparedRequest) -> None:
        self.steps.append("wait")

    async def prepare_grammar(self, compiled: str) -> None:
        self.steps.append(f"prepare {compiled}")

    @contextmanager
    def start(self, prepared: PreparedRequest) -> Iterator[PreparedRequest]:
        self.steps.append("start")
        self.started.append(prepared)
        try:
            yield prepared
        finally:
            self.steps.append("cancel")


def intake(journal: Journal, max_total_tokens: int = 100) -> Intake:
    parts: Any = journal
    bounds = resolve_limits(Limits(), max_total_tokens)
    return Intake(parts, parts, parts, bounds, PAGE_SIZE, VOCABULARY)


def request(**more: Any) -> Request:
    return Request("text", Sampling(), max_new_tokens=20, **more)


async def test_the_steps_come_in_order_and_leaving_undoes_them() -> None:
    journal = Journal([request(), request()], source=SOURCE)
    async with intake(journal).open("id", journal.precheck) as (generation, records):
        assert generation is journal
        assert list[Any](records) == journal.started
        assert journal.permits == 6
    assert journal.steps == [
        *("precheck", "hold 1", "validate", "hold 1"),
        *("encode", "grammar", "prepare compiled a"),
        *("start", "start", "wait", "cancel", "cancel"),
    ]
    assert journal.permits == 8


async def test_each_prompt_is_encoded_once_for_all_of_its_choices() -> None:
    choices = [Request(text, Sampling(seed=seed)) for text in "ab" for seed in range(3)]
    journal = Journal(choices, source=SOURCE)
    async with intake(journal).open("id", journal.precheck):
        assert journal.steps.count("encode") == journal.steps.count("grammar") == 2
        started = [prepared.request for prepared in journal.started]
        assert started == [replace(choice, grammar="compiled a") for choice in choices]
        first, second, *_ = (prepared.pages.hasher for prepared in journal.started)
    assert first is not None
    assert second is not None
    assert first.add((1, 2, 3, 4)) != first.add((1, 2, 3, 4))  # a chain, which the others ...
    assert second.add((1, 2, 3, 4)) == PageHasher(PAGE_SIZE).add((*PROMPT, 1, 2, 3, 4))[2:]


@pytest.mark.parametrize(
    "text", ["a" * 5000, " " * 5000, "世" * 2000, "the " * 2000, "😀" * 1500, "\n" * 9999]
)
async def test_a_text_that_cannot_fit_is_refused_without_encoding_it(text: str) -> None:
    journal = Journal([Request(text, Sampling())], source=SOURCE)
    least = TOKENIZER.min_token_count(text)
    refusal = f"must have less than 99 tokens. Given: at least {least}$"
    with pytest.raises(ValidationError, match=refusal):
        async with intake(journal).open("id", journal.precheck):
            pass
    assert "encode" not in journal.steps
    assert journal.permits == 8


async def test_a_text_of_which_only_the_end_is_kept_may_have_any_length() -> None:
    journal = Journal([Request("a" * 5000, Sampling(), truncate=5)])
    async with intake(journal).open("id", journal.precheck):
        assert journal.started[0].prompt == PROMPT[-5:]


async def test_what_is_started_lacks_nothing() -> None:
    journal = Journal([request(cache_salt="salt")], source=SOURCE)
    async with intake(journal).open("id", journal.precheck):
        (prepared,) = journal.started
    assert (prepared.request_id, prepared.arrived) == ("id", 7.0)
    assert (prepared.prompt, prepared.max_new) == (PROMPT, 20)
    assert prepared.request.grammar == "compiled a"
    assert prepared.pages.hashes == PageHasher(PAGE_SIZE, "salt").add(PROMPT)


async def test_pages_are_shared_within_a_cache_scope_and_a_salt_alone() -> None:
    hashes = []
    for scope, salt in (("a", "s"), ("a", "s"), ("a", None), ("b", "s")):
        journal = Journal([request(cache_salt=salt)])
        async with intake(journal).open("id", journal.precheck, scope):
            hashes.append(journal.started[0].pages.hashes)
    same, again, *others = map(set, hashes)
    assert same == again != set()
    assert all(same.isdisjoint(other) for other in others)


async def test_a_prompt_whose_logprobs_are_wanted_shares_no_pages() -> None:
    journal = Journal([request(decoder_input_details=True)])
    async with intake(journal).open("id", journal.precheck):
        (prepared,) = journal.started
    assert (prepared.pages.hashes, prepared.pages.hasher) == ((), None)


async def test_token_ids_are_not_encoded() -> None:
    journal = Journal([request(prompt_token_ids=(5, 6))])
    async with intake(journal).open("id", journal.precheck):
        assert journal.started[0].prompt == (5, 6)
    assert "encode" not in journal.steps


@pytest.mark.parametrize(("permits", "last"), [(0, "hold 1"), (1, "hold 2")])
async def test_without_a_permit_for_every_sequence_nothing_is_encoded(
    permits: int, last: str
) -> None:
    """None at all comes before the rules for parameters, too few after them."""
    journal = Journal([request()] * 3, permits)
    with pytest.raises(Overloaded):
        async with intake(journal).open("id", journal.precheck):
            pass
    assert journal.steps[-1] == last
    assert ("validate" in journal.steps) == (permits > 0)
    assert journal.permits == permits


async def test_a_prompt_that_is_too_long_is_refused_before_its_grammar_is_looked_at() -> None:
    journal = Journal([request()], source=SOURCE)
    with pytest.raises(ValidationError, match="must be <= 20"):
        async with intake(journal, max_total_tokens=20).open("id", journal.precheck):
            pass
    assert journal.steps[-1] == "encode"
    assert journal.permits == 8


async def test_a_sequence_that_fails_ends_those_before_it() -> None:
    journal = Journal([request(), request(prompt_token_ids=())])
    with pytest.raises(ValidationError, match="cannot be empty"):
        async with intake(journal).open("id", journal.precheck):
            pass
    assert journal.steps[-2:] == ["start", "cancel"]
    assert journal.permits == 8


@pytest.mark.parametrize("prompt", [(VOCABULARY,), (1, 2, 4096, 3), (5, 2**31 - 1), (99, 100)])
async def test_a_prompt_with_an_id_outside_the_vocabulary_is_refused(
    prompt: tuple[int, ...],
) -> None:
    journal = Journal([request(prompt_token_ids=prompt)], source=SOURCE)
    with pytest.raises(ValidationError, match=f"ids must be below 100. Given: {max(prompt)}$"):
        async with intake(journal).open("id", journal.precheck):
            pass
    assert journal.started == []
    assert journal.permits == 8


async def test_a_text_with_a_token_outside_the_vocabulary_is_refused_by_name() -> None:
    end = TOKENIZER.encode("</s>")[0]
    journal = Journal([request()], encoded=(1, end, 2))
    with pytest.raises(ValidationError, match=f"the token `</s>`, whose id {end} is not in"):
        async with intake(journal).open("id", journal.precheck):
            pass
    assert journal.started == []


async def test_only_the_part_of_a_prompt_that_is_kept_must_be_in_the_vocabulary() -> None:
    journal = Journal([request(prompt_token_ids=(500, 1, 2), truncate=2)])
    async with intake(journal).open("id", journal.precheck):
        assert journal.started[0].prompt == (1, 2)
