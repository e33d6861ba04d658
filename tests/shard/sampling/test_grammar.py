"""A row with a grammar stays inside it, whatever is drafted, and costs its neighbours nothing."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLParserLimits

from shard import progress
from shard.sampling.grammar import DEAD_END, LIMIT_EXCEEDED, GrammarMatchers
from shard.sampling.position import Position
from shard.sampling.processors import mask_forbidden
from shard.wire.protocol import AppendPages, End, NewRow, RowResult, RowWork, Sampling, Step
from tests.support import driver
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.nightly import nightly
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
CLOSED = {"type": "object", "additionalProperties": False}
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=1.0),
    Sampling(temperature=1.5, top_p=0.9, frequency_penalty=1.0, watermark=True),
)


FORCED_PLANS = (
    DrivePlan(forced=16),
    DrivePlan(draft=3, forced=2),
    DrivePlan(3, forced=16, batch=1),
)
FORCED = "I would answer (yes|no), without (any|much) doubt"


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


def results(engine: Any, wanted: list[RowSpec], plan: DrivePlan) -> list[RowResult]:
    return driver.run_steps(wanted, plan, lambda step: engine.execute(step).items)


def asks(grammar: str | None, sampling: Sampling) -> list[RowSpec]:
    return [
        RowSpec((65, 66, id + 1), 60, replace(sampling, seed=id), grammar=grammar)
        for id in range(4)
    ]


@pytest.mark.parametrize(
    "sampling", [nightly(SAMPLINGS[0]), *SAMPLINGS[1:]], ids=["greedy", "sampled", "all"]
)
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
    plans = (DrivePlan(draft=1), DrivePlan(draft=5), DrivePlan(draft=3, batch=1))
    for plan in (*plans, *FORCED_PLANS):
        assert drive(drafted, wanted, plan) == plain
    for row in plain[:4]:
        assert row[-1] == EOS
        text = TOKENIZER.decode(row[:-1])
        if grammar == regex(REGEX):
            assert re.fullmatch(REGEX, text)
        else:
            assert set(json.loads(text)) == {"a", "b"}
    assert plain[4:] == drive(drafted, wanted[4:], DrivePlan(batch=1))


def test_drafts_of_a_row_with_a_grammar_are_inside_it_too(drafted: Any) -> None:
    """Between two tokens even an unrelated draft guesses well; among all of them it could not."""
    drafted.reset()
    wanted = asks(regex("[ab]{30}"), Sampling(temperature=1.0))
    done = driver.run_steps(wanted, DrivePlan(draft=4), lambda step: drafted.execute(step).items)
    offered = sum(item.drafted for item in done)
    kept = sum(item.accepted for item in done)
    assert kept > offered / 4


@pytest.mark.parametrize("draft", [None, 0, 1], ids=["lookup", "equal", "unrelated"])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled", "all"])
def test_forced_tokens_are_accepted_and_change_nothing(
    folder: str, draft: int | None, sampling: Sampling
) -> None:
    served = text_engine(folder, draft)
    wanted = [*asks(regex(FORCED), sampling), *asks(None, sampling)[:2]]
    plain = drive(served, wanted, DrivePlan(batch=1))
    for plan in FORCED_PLANS:
        served.reset()
        done = results(served, wanted, plan)
        assert driver.tokens_by_row(done, len(wanted)) == plain
        forced = [item for item in done if item.drafter == "grammar"]
        assert {item.id for item in forced} == {0, 1, 2, 3}, "only rows with a grammar"
        assert sum(item.accepted for item in forced) == sum(item.drafted for item in forced) > 60
        assert max(item.drafted for item in forced) <= plan.forced


def test_a_row_that_was_forced_without_its_draft_model_drafts_again_afterwards(
    folder: str,
) -> None:
    served = text_engine(folder, 0)
    wanted = asks(regex("would you say( yes| no){4,8}"), SAMPLINGS[1])
    plain = drive(served, wanted, DrivePlan(batch=1))
    served.reset()
    done = results(served, wanted, DrivePlan(draft=3, forced=16))
    assert driver.tokens_by_row(done, len(wanted)) == plain
    own = [item for item in done if item.drafter != "grammar"]
    assert sum(item.accepted for item in own) > sum(item.drafted for item in own) / 2 > 0


def test_a_draft_length_of_the_grammar_never_exceeds_the_tokens_left(folder: str) -> None:
    served = text_engine(folder, None)
    wanted = [replace(ask, max_new=5) for ask in asks(regex(FORCED), SAMPLINGS[0])]
    plain = drive(served, wanted, DrivePlan(batch=1))
    assert drive(served, wanted, DrivePlan(forced=16)) == plain
    assert [len(row) for row in plain] == [5] * 4


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


@pytest.mark.parametrize("sampling", SAMPLINGS[1:2], ids=["sampled"])
@pytest.mark.parametrize(
    "schema",
    [
        SCHEMA,
        '{"enum": ["a\\"b", "c", "\\"\\""]}',
        '{"type": "array", "items": {"enum": ["x", "yy"]}, "minItems": 1, "maxItems": 3}',
        '{"type": "string", "maxLength": 4, "pattern": "^[ab]+$"}',
        json.dumps({**CLOSED, "properties": {"k": {"enum": [0, 9]}}}),
        json.dumps({**CLOSED, "properties": {'"': {"const": ""}}}),
    ],
)
@pytest.mark.parametrize("more_eos", ['"', "}"])
def test_an_end_token_that_is_text_never_ends_a_text_before_it_is_complete(
    folder: str, more_eos: str, schema: str, sampling: Sampling
) -> None:
    engine = text_engine(folder, 1, (EOS, TOKENIZER.get_vocab()[more_eos]))
    wanted = [replace(ask, max_new=100) for ask in asks(json_schema(schema), sampling)]
    plain = drive(engine, wanted, DrivePlan(batch=1))
    assert drive(engine, wanted, DrivePlan(draft=4)) == plain
    for row in plain:
        assert len(row) < 100
        json.loads(TOKENIZER.decode(row[:-1], skip_special_tokens=False))


@pytest.mark.parametrize("draft", [0, 4])
@pytest.mark.parametrize(
    ("pattern", "texts"),
    [
        ("(yes|no)", {"yes", "no"}),
        ("[ab]{3}", {a + b + c for a in "ab" for b in "ab" for c in "ab"}),
        ("x", {"x"}),
        ("(a|b)c{4}(d|e)", {f"{a}cccc{d}" for a in "ab" for d in "de"}),
        ('"(q|r)"', {'"q"', '"r"'}),
    ],
)
@pytest.mark.parametrize("sampling", SAMPLINGS[1:2], ids=["sampled"])
def test_a_row_without_end_tokens_ends_when_its_grammar_is_complete(
    folder: str, sampling: Sampling, pattern: str, texts: set[str], draft: int
) -> None:
    engine = text_engine(folder, None, None)
    engine.reset()
    wanted = asks(regex(pattern), sampling)
    items = driver.run_steps(
        wanted, DrivePlan(draft=draft), lambda step: engine.execute(step).items
    )
    ends = [item.end for item in items if item.end is not None]
    assert ends == [End.COMPLETE] * 4
    assert {TOKENIZER.decode(row) for row in driver.tokens_by_row(items, 4)} <= texts


def test_a_row_that_ignores_its_end_ends_with_its_grammar(drafted: Any) -> None:
    drafted.reset()
    new = NewRow(1, (65,), 1, 40, True, Sampling(), grammar=regex("ab"))
    step = Step(1, (), (new,), (AppendPages(1, (1, 2, 3, 4)),), (RowWork(1, 1, 0),))
    tokens, number = [], 1
    while True:
        [item] = drafted.execute(step).items
        tokens += item.tokens
        if item.end:
            break
        number += 1
        step = Step(number, (), (), (), (RowWork(1, 0, 3),))
    assert (TOKENIZER.decode(tokens), item.end) == ("ab", End.COMPLETE)


AMBIGUOUS = "start: s s s s s s s s s s s s\ns: s s s | s s | /[a-z]/"
"""Its masks need more items with every letter."""


@pytest.mark.parametrize("draft", [0, 1, 5])
def test_a_grammar_that_exceeds_its_limits_ends_its_row_at_the_same_token_whatever_is_drafted(
    folder: str, monkeypatch: pytest.MonkeyPatch, draft: int
) -> None:
    monkeypatch.setattr("shard.sampling.grammar._LIMITS", LLParserLimits(step_max_items=100))
    engine = text_engine(folder, 0)
    matchers = GrammarMatchers(folder, VOCABULARY, frozenset({EOS}))
    monkeypatch.setattr(engine._rows, "_matcher", matchers.matcher)
    engine.reset()
    wanted = asks(AMBIGUOUS, Sampling(temperature=1.0))
    items = driver.run_steps(
        wanted, DrivePlan(draft=draft), lambda step: engine.execute(step).items
    )
    failed = {item.id: item.fault for item in items if item.end is End.ERROR}
    assert set(failed.values()) == {LIMIT_EXCEEDED}
    lengths = [len(row) for row in driver.tokens_by_row(items, 4)]
    monkeypatch.setattr(engine._rows, "_matcher", matchers.matcher)
    engine.reset()
    plain = results(engine, wanted, DrivePlan(batch=1))
    assert lengths == [len(row) for row in driver.tokens_by_row(plain, 4)]
    assert driver.tokens_by_row(items, 4) == driver.tokens_by_row(plain, 4)


def test_a_grammar_that_needs_a_token_the_model_lacks_says_so(folder: str) -> None:
    """The tokenizer has it, the model's vocabulary ends before it."""
    matchers = GrammarMatchers(folder, EOS, frozenset())
    matcher = matchers.matcher('start: "a" <[' + str(EOS) + "]>")
    assert matcher.fault([]) == ""
    assert matcher.fault([TOKENIZER.get_vocab()["a"]]) == DEAD_END


def test_every_mask_counts_as_progress(grammars: GrammarMatchers) -> None:
    rows = [Position(Sampling(), (65,), matcher=grammars.matcher(regex(REGEX))) for _ in range(5)]
    before = progress.count()
    mask_forbidden(torch.zeros(5, VOCABULARY), rows, {EOS})
    assert progress.count() == before + 5


def test_the_time_that_masks_take_is_reported_once(grammars: GrammarMatchers) -> None:
    matcher = grammars.matcher(json_schema(SCHEMA))
    matcher.mask([], VOCABULARY)
    assert matcher.take_seconds() > 0
    assert matcher.take_seconds() == 0


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
    monkeypatch.setattr("shard.sampling.grammar.MAX_CACHED_BYTES", 5 << 19)  # two small ones
    grammars = GrammarMatchers(folder, VOCABULARY, frozenset({EOS}))
    for text in ("a", "b", "a", "c"):
        grammars.prepare(regex(text))
    assert [text for text in "abc" if grammars._compiled.get(regex(text))] == ["a", "c"]
    assert 2 << 20 < grammars.cached_bytes < 5 << 19
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


def test_forced_tokens_are_those_of_the_only_text_that_can_follow(
    grammars: GrammarMatchers,
) -> None:
    matcher = grammars.matcher(regex(FORCED))
    choice, known = (
        TOKENIZER.encode(text, add_special_tokens=False).ids
        for text in ("I would answer ", "I would answer yes")
    )
    assert matcher.forced_tokens(choice) == []
    after = matcher.forced_tokens(known)
    assert after
    assert ", without ".startswith(TOKENIZER.decode(after))
    outside = [*known, *known]
    assert matcher.forced_tokens(outside) == []
    assert matcher.forced_tokens(known) == after


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
        assert used.fault(output) == ""
        assert used.forced_tokens(output) == fresh.forced_tokens(output)
        wrong = [*output, *rng.choices(range(TOKENIZER.get_vocab_size()), k=2)]
        used.mask(wrong[: rng.randint(len(output), len(wrong))], VOCABULARY)
        if rng.random() < 0.3 or output[-1:] == [EOS]:
            output = output[: rng.randint(0, len(output))]
        else:
            output = [*output, rng.choice(sorted(mask))]
