"""A row with a grammar stays inside it, whatever is drafted, and costs its neighbours nothing."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher

from shard.sampling.grammar import GrammarMatchers
from shard.wire.protocol import AppendPages, End, NewRow, RowWork, Sampling, Step
from tests.support import driver
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.text_engine import EOS, TOKENIZER, VOCABULARY, text_engine

REGEX = r"(cat|dog)s?( and (cat|dog)s?){0,3}"
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"a": {"enum": ["x", "yes"]}, "b": {"type": "boolean"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }
)
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=1.0),
    Sampling(temperature=1.5, top_p=0.9, frequency_penalty=1.0, watermark=True),
)


def regex(text: str) -> str:
    return LLMatcher.grammar_from_regex(text)


def json_schema(text: str) -> str:
    return LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_pattern": "[ ]?"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    made: Path = tmp_path_factory.mktemp("vocabulary")
    TOKENIZER.save(str(made / "tokenizer.json"))
    return str(made)


@pytest.fixture(scope="module")
def grammars(folder: str) -> GrammarMatchers:
    return GrammarMatchers(folder, VOCABULARY, frozenset({EOS}))


@pytest.fixture(params=[0, 1], ids=["equal", "unrelated"])
def drafted(request: pytest.FixtureRequest, folder: str) -> Any:
    """An engine whose vocabulary has text; the draft is the target, or knows nothing of it."""
    return text_engine(folder, request.param)


def asks(grammar: str | None, sampling: Sampling) -> list[RowSpec]:
    return [
        RowSpec((65, 66, id + 1), 60, replace(sampling, seed=id), grammar=grammar)
        for id in range(4)
    ]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled", "all"])
@pytest.mark.parametrize(
    "grammar",
    [regex(REGEX), json_schema(SCHEMA)],
    ids=["regex", "json"],
)
def test_rows_end_inside_their_grammar_whatever_is_drafted(
    drafted: Any, grammar: str, sampling: Sampling
) -> None:
    wanted = [*asks(grammar, sampling), *asks(None, sampling)[:2]]
    plain = drive(drafted, wanted, DrivePlan(batch=1))
    for plan in (DrivePlan(draft=1), DrivePlan(draft=5), DrivePlan(draft=3, batch=1)):
        assert drive(drafted, wanted, plan) == plain
    for row in plain[:4]:
        assert row[-1] == EOS
        text = TOKENIZER.decode(row[:-1])
        if grammar == regex(REGEX):
            assert re.fullmatch(REGEX, text)
        else:
            assert set(json.loads(text)) == {"a", "b"}
    free = drive(drafted, [replace(ask, grammar=None) for ask in wanted], DrivePlan(batch=1))
    assert plain[4:] == free[4:]


def test_drafts_of_a_row_with_a_grammar_are_inside_it_too(drafted: Any) -> None:
    """Between two tokens even an unrelated draft guesses well; among all of them it could not."""
    drafted.reset()
    wanted = asks(regex("[ab]{30}"), Sampling(temperature=1.0))
    done = driver.run_steps(wanted, DrivePlan(draft=4), lambda step: drafted.execute(step).items)
    offered = sum(item.drafted for item in done)
    kept = sum(item.accepted for item in done)
    assert kept > offered / 4


def test_prompt_lookup_may_leave_the_grammar_and_changes_nothing(folder: str) -> None:
    served = text_engine(folder, None)
    grammar = regex("(ab|ba){4,9}")
    wanted = [
        replace(ask, prompt=tuple(b"abababcabab")) for ask in asks(grammar, Sampling(temperature=1))
    ]
    plain = drive(served, wanted, DrivePlan(batch=1))
    done = driver.run_steps(wanted, DrivePlan(draft=5), lambda step: served.execute(step).items)
    assert driver.tokens_by_row(done, len(wanted)) == plain
    assert sum(item.drafted for item in done) > sum(item.accepted for item in done) > 0


def test_a_row_resumes_in_the_middle_of_its_grammar(drafted: Any) -> None:
    grammar = json_schema(SCHEMA)
    [ask, *_] = asks(grammar, SAMPLINGS[1])
    [whole] = drive(drafted, [ask], DrivePlan(draft=3))
    known = (*ask.prompt, *whole[:5])
    drafted.reset()
    new = NewRow(1, known, 3, ask.max_new, False, ask.sampling, grammar=grammar)
    grow = AppendPages(1, (1, 2, 3, 4, 5))
    rest = [
        *drafted.execute(Step(1, (), (new,), (grow,), (RowWork(1, len(known), 0),))).items[0].tokens
    ]
    while rest[-1] != EOS:
        rest += drafted.execute(Step(2, (), (), (), (RowWork(1, 0, 3),))).items[0].tokens
    assert rest == whole[5:]


def test_the_minimum_length_yields_to_a_grammar_that_is_over(drafted: Any) -> None:
    short = replace(SAMPLINGS[0], min_new_tokens=20)
    longest = drive(drafted, asks(regex("a{3,9}"), short), DrivePlan(draft=3))
    expected = [TOKENIZER.token_to_id("a")] * 9 + [EOS]
    assert longest == [expected] * 4


def test_a_row_whose_grammar_does_not_compile_ends_alone(drafted: Any) -> None:
    drafted.reset()
    bad = NewRow(1, (65,), 1, 4, False, Sampling(), grammar=regex("("))
    good = NewRow(2, (65,), 1, 4, False, Sampling())
    grow = (AppendPages(1, (1,)), AppendPages(2, (2,)))
    step = Step(1, (), (bad, good), grow, (RowWork(1, 1, 0), RowWork(2, 1, 0)))
    assert [item.end for item in drafted.execute(step).items] == [End.ERROR, None]


def admitted(mask: Any) -> set[int]:
    return set(mask.nonzero()[:, 0].tolist())


def test_rows_of_one_grammar_share_its_compilation_and_nothing_else(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(tokenizer: Any, text: str, **more: Any) -> LLMatcher:
        made.append(text)
        return LLMatcher(tokenizer, text, **more)

    grammars = GrammarMatchers(folder, VOCABULARY, frozenset({EOS}))
    monkeypatch.setattr("shard.sampling.grammar.LLMatcher", counted)
    a, b = (TOKENIZER.get_vocab()[letter] for letter in "ab")
    grammars.prepare(regex("ab"))
    first, second = grammars.matcher(regex("ab")), grammars.matcher(regex("ab"))
    assert admitted(first.mask([a], VOCABULARY)) == {b}
    assert admitted(second.mask([], VOCABULARY)) == {a}
    assert admitted(grammars.matcher(regex("ab")).mask([], VOCABULARY)) == {a}
    assert made == [regex("ab")]


def test_the_grammars_that_were_asked_for_last_are_kept(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shard.sampling.grammar._MAX_CACHED_GRAMMARS", 2)
    grammars = GrammarMatchers(folder, VOCABULARY, frozenset({EOS}))
    for text in ("a", "b", "a", "c"):
        grammars.prepare(regex(text))
    assert set(grammars._compiled) == {regex("a"), regex("c")}
    assert admitted(grammars.matcher(regex("b")).mask([], VOCABULARY)) == {
        TOKENIZER.token_to_id("b")
    }


def test_a_whole_text_admits_only_the_end(grammars: GrammarMatchers) -> None:
    matcher = grammars.matcher(regex("ab"))
    a, b = (TOKENIZER.get_vocab()[letter] for letter in "ab")
    assert admitted(matcher.mask([], VOCABULARY)) == {a}
    assert admitted(matcher.mask([a, b], VOCABULARY)) == {EOS}
    assert admitted(matcher.mask([a, b, EOS], VOCABULARY)) == {EOS}
    assert admitted(matcher.mask([a], VOCABULARY)) == {b}


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_mask_is_a_function_of_the_output_alone(grammars: GrammarMatchers, seed: int) -> None:
    """Whatever was asked before: drafts inside and outside the grammar, ends, and returns."""
    rng = random.Random(seed)
    grammar = regex(REGEX)
    used = grammars.matcher(grammar)
    output: list[int] = []
    for _ in range(25):
        mask = admitted(used.mask(output, VOCABULARY))
        fresh = grammars.matcher(grammar)
        assert mask == admitted(fresh.mask(output, VOCABULARY))
        assert not used.broken
        wrong = [*output, *rng.choices(range(TOKENIZER.get_vocab_size()), k=2)]
        used.mask(wrong[: rng.randint(len(output), len(wrong))], VOCABULARY)
        if rng.random() < 0.3 or output[-1:] == [EOS]:
            output = output[: rng.randint(0, len(output))]
        else:
            output = [*output, rng.choice(sorted(mask))]
