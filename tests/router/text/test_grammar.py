"""Grammars that cannot be followed are refused, and those that can are compiled once."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from sys import getsizeof
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from router.errors import ValidationError
from router.text.closed_objects import TooManyAlternatives, closed_objects
from router.text.grammar import (
    MAX_GRAMMAR_CHARACTERS,
    GrammarCompiler,
    GrammarKind,
    GrammarSource,
    from_schema,
    parse_grammar,
)
from router.text.worker_pool import WorkerFiles, WorkerPool
from tests.support.families import byte_level
from tests.support.shared_workers import shared_workers

BROKEN: tuple[dict[str, Any], ...] = (
    {"type": "nonsense"},
    {"type": 5},
    {"type": ["string", 5]},
    {"properties": 5},
    {"properties": {"a": 5}},
    {"required": "a"},
    {"items": 5},
    {"prefixItems": {}},
    {"enum": []},
    {"enum": 5},
    {"anyOf": []},
    {"anyOf": 5},
    {"oneOf": [5]},
    {"$ref": "#/$defs/missing"},
    {"$ref": "http://127.0.0.1:9/schema.json"},
    {"$ref": "file:///etc/passwd"},
    {"$ref": 5},
    {"not": {}},
    {"if": {}, "then": {}},
    {"type": "array", "uniqueItems": True},
    {"type": "string", "format": "nonsense"},
    {"type": "string", "pattern": "("},
    {"type": "string", "pattern": "(?=a)b"},
    {"type": "string", "pattern": "(a)\\1"},
    {"type": "string", "minLength": -1},
    {"type": "string", "minLength": 3, "maxLength": 2},
    {"type": "string", "maxLength": "5"},
    {"type": "integer", "minimum": "a"},
    {"type": "integer", "minimum": 5, "maximum": 4},
    {"type": "array", "minItems": 3, "maxItems": 2},
    {"allOf": [{"type": "string"}, {"type": "integer"}]},
    {"additionalProperties": 5},
)
BAD_REGEXES = (
    *("(", ")", "[", "a{2,1}", "[z-a]", "*", "+a", "(?=a)b", "(?!a)b", "(?<=a)b", "(?<!a)b"),
    *(
        "(a)\\1",
        "(?P<n>a)(?P=n)",
        "\\b",
        "a\\",
        "\\p{Nonsense}",
        "(?P<1>a)",
        "(?<n",
        "x{99999999999}",
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("vocabulary")
    byte_level().save(str(made / "tokenizer.json"))
    return made


@pytest.fixture(scope="module")
async def workers(folder: Path) -> AsyncIterator[WorkerPool]:
    pool = WorkerPool(WorkerFiles(str(folder), byte_level().get_vocab_size()), 1)
    yield pool
    await pool.close()


@pytest.fixture
def grammars(workers: WorkerPool) -> GrammarCompiler:
    return GrammarCompiler(workers)


def malformed(count: int) -> list[dict[str, Any]]:
    """Schemas, each with one of the faults somewhere inside."""
    rng = random.Random(7)

    def wrap(schema: dict[str, Any], depth: int) -> dict[str, Any]:
        if not depth:
            return schema
        inner = wrap(schema, depth - 1)
        return rng.choice(
            (
                {"type": "object", "properties": {"x": inner}, "required": ["x"]},
                {"type": "array", "items": inner, "minItems": 1},
                {"allOf": [inner, {"description": "the same"}]},
                {"anyOf": [inner]},
            )
        )

    return [wrap(rng.choice(BROKEN), rng.randint(0, 3)) for _ in range(count)]


async def refused(grammars: GrammarCompiler, kind: str, value: Any) -> str:
    source = from_schema(value) if kind == "json" else parse_grammar(kind, value)
    with pytest.raises(ValidationError) as caught:
        await grammars.compile(source)
    return str(caught.value)


async def test_invalid_schemas_are_refused(grammars: GrammarCompiler) -> None:
    for schema in BROKEN:
        text = await refused(grammars, "json", schema)
        assert text.startswith("Input validation error: cannot compile regex from schema: ")
        assert "\n" not in text


async def test_two_hundred_invalid_schemas_are_refused_wherever_the_error_is(
    grammars: GrammarCompiler,
) -> None:
    for schema in malformed(200):
        await refused(grammars, "json", schema)


@pytest.mark.parametrize("regex", BAD_REGEXES)
async def test_invalid_regexes_are_refused(grammars: GrammarCompiler, regex: str) -> None:
    text = await refused(grammars, "regex", regex)
    assert text.startswith("Input validation error: grammar is not valid: ")


@pytest.mark.parametrize("lark", ["", "x", 'strat: "a"', "start: start", "start: /(/", "start: b"])
async def test_invalid_lark_grammars_are_refused(grammars: GrammarCompiler, lark: str) -> None:
    await refused(grammars, "lark", lark)


@pytest.mark.parametrize(
    "lark",
    [
        'start: a "!"\na[max_tokens=3]: /[a-z]*/',
        'start: a "!"\na[stop="!"]: /[a-z]*/',
        'start: "x" a\na[max_tokens=300]: "y" | "z"',
        'start: ("x" | "y") a*\na[stop=""]: /[a-z]/',
        "start: a b\na: /[0-9]+/\nb[stop=/[.]/, max_tokens=10]: /.*/",
        'start: a\na: "(" a ")" | b\nb[max_tokens=1]: /[a-z]+/',
    ],
)
async def test_rules_that_cannot_be_rolled_back_are_refused_by_name(
    grammars: GrammarCompiler, lark: str
) -> None:
    assert "`max_tokens` and `stop` of a rule are not supported" in await refused(
        grammars, "lark", lark
    )


@pytest.mark.parametrize(
    "lark",
    [
        "start: a\na[temperature=0.5]: /[a-c]+/",
        "start: a\na[ temperature = 1 ]: /[a-c]+/",
        "start: a\na[lazy,temperature=0.0]: /x+/",
        "start: a\na[temperature=2, capture]: /x/",
        'start: a "\\"" b // "\na: "x"\nb[temperature=1e3]: /[0-9]/',
        'start: a\na[temperature=0.3]: %json {"type": "string"}',
        "start: a b\na: /\\/[a]*/\nb[max_tokens=3, temperature=1]: /x/",
    ],
)
async def test_a_temperature_of_a_rule_is_refused_by_name(
    grammars: GrammarCompiler, lark: str
) -> None:
    text = await refused(grammars, "lark", lark)
    assert "`temperature` of a rule is not supported: use that of the request" in text


@pytest.mark.parametrize("space", ["", " ", "\n\t"])
@pytest.mark.parametrize(
    "grammar",
    [
        {"lark_grammar": "start: a\na[temperature=0.5]: /x/"},
        {"json_schema": {"const": 1234567890123456789}},
    ],
)
async def test_llguidances_own_format_is_not_lark(
    grammars: GrammarCompiler, grammar: dict[str, Any], space: str
) -> None:
    lark = space + json.dumps({"grammars": [grammar]})
    assert "it is JSON, not Lark" in await refused(grammars, "lark", lark)


@pytest.mark.parametrize(
    "lark",
    [
        'start: "[temperature=3]"',
        "start: a\na: /[temperature=1]/",
        "start: a\n// a[temperature=1]\na: /x/",
        "start: a\n# [temperature=1]\na: /x/",
        'start: a\na[capture="temperature=1"]: /x/',
        "start: temperature\ntemperature: /x/",
    ],
)
async def test_a_temperature_that_is_text_of_a_grammar_is_compiled(
    grammars: GrammarCompiler, lark: str
) -> None:
    assert await grammars.compile(GrammarSource(GrammarKind.LARK, lark)) == lark


@pytest.mark.parametrize(
    "lark",
    [
        'start: a "!"\na: /[a-z]*/',
        "start: a\na[lazy]: /[a-z]*b/",
        'start: a\na[suffix="!"]: /[a-z]*/',
        'start: a "b"\na[capture]: /[a-z]*/',
        'start: ("yes" | "no")',
        'start: ""',
    ],
)
async def test_other_options_of_rules_are_compiled(grammars: GrammarCompiler, lark: str) -> None:
    assert await grammars.compile(GrammarSource(GrammarKind.LARK, lark)) == lark


@pytest.mark.parametrize(
    "lark",
    [
        'start: a\na: a a a | a a | /[^"]/',
        "start: s\ns: s s s s | /[^a]/ | /[^0]/",
        'start: e\ne: e e | e "+" e | /[^+]/',
        "start: a b\na: a a a | /[^b]/\nb: b b b | /[^a]/",
        "start: a\na: a a a a a | a a a | a a | /[ -~]/",
        "start: a\na: a a | /./",
        'start: a\na: a a | /[^"]/',
        "start: a\na: a b | b a | /./\nb: a",
        'start: a\na: a a | /./ | ""',
        "start: s\ns: s t | t s | /[^0]/\nt: s",
    ],
)
async def test_ambiguous_grammars_whose_masks_exceed_the_limits_are_refused(lark: str) -> None:
    grammars = GrammarCompiler(shared_workers().jobs)
    assert "Too many items" in await refused(grammars, "lark", lark)


INTEGER = {"type": "integer"}


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (["ab"], ["^ab$"]),
        (["a", "ab"], ["^ab?$"]),
        (["a", "b"], ["^[ab]$"]),
        (["é"], ["^é$"]),
        (["x", 'q"'], ['^q"$']),
        (["a", "b", "c"], ["^a$", "^(b|c)$"]),
    ],
)
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"type": "array", "items": s}])
async def test_patterns_that_only_match_named_properties_are_refused(
    grammars: GrammarCompiler, names: list[str], patterns: list[str], wrap: Any
) -> None:
    schema = {
        "type": "object",
        "properties": dict.fromkeys(names, INTEGER),
        "patternProperties": dict.fromkeys(patterns, INTEGER),
        "additionalProperties": False,
    }
    assert "matches only names" in await refused(grammars, "json", wrap(schema))


ONLY_A = {"type": "object", "patternProperties": {"^a$": INTEGER}, "additionalProperties": False}
HAS_A: dict[str, Any] = {"type": "object", "properties": {"a": INTEGER}}
COMBINED: dict[str, Any] = {
    "allOf": {"allOf": [HAS_A, ONLY_A]},
    "next to allOf": {**HAS_A, "allOf": [ONLY_A]},
    "nested allOf": {"allOf": [{"allOf": [{"allOf": [HAS_A]}]}, {"allOf": [ONLY_A]}]},
    "$ref": {**HAS_A, "$ref": "#/$defs/x~1y", "$defs": {"x/y": ONLY_A}},
    "$ref in allOf": {"allOf": [HAS_A, {"$ref": "#/$defs/x"}], "$defs": {"x": ONLY_A}},
    "anyOf": {**HAS_A, "anyOf": [{"properties": {"c": INTEGER}}, ONLY_A]},
    "oneOf": {**HAS_A, "oneOf": [ONLY_A]},
    "required": {**ONLY_A, "required": ["a"]},
    "required in allOf": {"allOf": [{"required": ["a"]}, ONLY_A]},
    "a forbidden pattern": {
        **HAS_A,
        "patternProperties": {"^a$": INTEGER, "^b": False},
        "additionalProperties": False,
    },
    "in an array": {"type": "array", "items": {"allOf": [HAS_A, ONLY_A]}},
    "in a property": {**HAS_A, "properties": {"b": {"allOf": [HAS_A, ONLY_A]}}},
}
"""Schemas in which a comma after `a` could not be followed by a key."""


@pytest.mark.parametrize("name", COMBINED)
async def test_patterns_that_only_match_names_of_a_combined_schema_are_refused(
    grammars: GrammarCompiler, name: str
) -> None:
    assert "matches only names" in await refused(grammars, "json", COMBINED[name])


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [HAS_A, {"patternProperties": {"^a": INTEGER}, "additionalProperties": False}]},
        {"allOf": [HAS_A, {"patternProperties": {"^a$": INTEGER}}]},
        {"anyOf": [HAS_A, ONLY_A]},
        {**HAS_A, "$defs": {"x": ONLY_A}},
        {**HAS_A, "properties": {"a": ONLY_A}},
        {"type": "object", "properties": {"a": {"$ref": "#"}, "b": INTEGER}},
        {"allOf": [ONLY_A, {"type": "object"}]},
    ],
    ids=str,
)
async def test_combined_schemas_without_a_dead_end_are_compiled(
    grammars: GrammarCompiler, schema: dict[str, Any]
) -> None:
    assert await grammars.compile(from_schema(schema))


LARGE = '{"const": 1234567890123456789}'
NESTED = [
    "%s",
    '{"type": "array", "items": %s}',
    '{"anyOf": [{"type": "null"}, %s]}',
    '{"$ref": "#/$defs/a", "$defs": {"a": %s}}',
    '{"type": "object", "properties": {"a": %s}}',
]
LARKS = [
    "start: %%json %s",
    'start: "a" (%%json{"const": 1} | %%json %s) "b"',
    'start: "%%json" x // %%json {\nx: %%json\n %s\n',
    'start: /\\/%%json [{]"/ %%json %s "b"',
    'start: %%lark {\n start: "a" %%json %s\n}',
]


@pytest.mark.parametrize("lark", LARKS)
@pytest.mark.parametrize("nested", NESTED)
async def test_a_schema_inside_lark_with_a_number_that_would_change_is_refused(
    grammars: GrammarCompiler, lark: str, nested: str
) -> None:
    error = await refused(grammars, "lark", lark % (nested % LARGE))
    assert error == (
        "Input validation error: grammar is not valid: `%json`: `const` has a number that 64-bit"
        " floats cannot hold: 1234567890123456789"
    )


@pytest.mark.parametrize("lark", LARKS)
@pytest.mark.parametrize("nested", NESTED)
async def test_a_schema_inside_lark_with_a_dead_end_is_refused(
    grammars: GrammarCompiler, lark: str, nested: str
) -> None:
    schema = json.dumps({**HAS_A, **ONLY_A})
    assert "matches only names" in await refused(grammars, "lark", lark % (nested % schema))


@pytest.mark.parametrize("lark", LARKS)
@pytest.mark.parametrize("nested", NESTED)
async def test_other_schemas_inside_lark_are_compiled(
    grammars: GrammarCompiler, lark: str, nested: str
) -> None:
    source = GrammarSource(GrammarKind.LARK, lark % (nested % '{"const": 10000000000000000000000}'))
    assert await grammars.compile(source) == source.text


@pytest.mark.parametrize(
    ("lark", "reason"),
    [
        ("start: %json", "Expecting value"),
        ("start: %json x", "Expecting value"),
        ('start: %json {"const": 1', "Expecting ',' delimiter"),
        ("start: %json {'const': 1}", "Expecting property name"),
        ("start: %json " + "[" * 101 + "]" * 101, "nested more than 100 levels deep"),
        ("start: %json " + "[" * 100_000, "nested more than 100 levels deep"),
    ],
)
async def test_what_follows_json_in_lark_must_be_json(
    grammars: GrammarCompiler, lark: str, reason: str
) -> None:
    assert f"grammar is not valid: `%json`: {reason}" in await refused(grammars, "lark", lark)


def test_more_combinations_than_can_be_checked_are_too_many() -> None:
    names = iter(range(1000))
    choices: list[dict[str, Any]] = [
        {"anyOf": [{"properties": {f"p{next(names)}": {}}} for _ in range(4)]} for _ in range(5)
    ]
    assert list(closed_objects({"allOf": choices[:4]})) == []
    with pytest.raises(TooManyAlternatives):
        list(closed_objects({"allOf": choices}))


@pytest.mark.parametrize(
    ("names", "patterns", "more"),
    [
        (["ab"], ["^a"], {"additionalProperties": False}),
        (["ab"], ["^ab$"], {}),
        (["a"], ["^[ab]$"], {"additionalProperties": False}),
        ([], ["^a$"], {"additionalProperties": False}),
        (["a", "b"], ["^c+$", "^d$"], {"additionalProperties": False}),
        (["x"], ["^ab$"], {"additionalProperties": False, "required": ["x"]}),
    ],
)
async def test_patterns_that_match_other_names_too_are_compiled(
    grammars: GrammarCompiler, names: list[str], patterns: list[str], more: dict[str, Any]
) -> None:
    schema = {
        "type": "object",
        "properties": dict.fromkeys(names, INTEGER),
        "patternProperties": dict.fromkeys(patterns, INTEGER),
        **more,
    }
    assert await grammars.compile(from_schema(schema))


async def test_grammars_are_served_where_the_tokenizer_has_more_tokens_than_the_model(
    folder: Path,
) -> None:
    workers = WorkerPool(WorkerFiles(str(folder), byte_level().get_vocab_size() - 1), 1)
    try:
        assert await GrammarCompiler(workers).compile(GrammarSource(GrammarKind.REGEX, "a+"))
    finally:
        await workers.close()


async def test_look_around_is_refused_by_name(grammars: GrammarCompiler) -> None:
    assert "look-around" in await refused(grammars, "regex", "(?=a)b")
    assert "backreferences" in await refused(grammars, "regex", "(a)\\1")


async def test_a_grammar_has_a_maximum_length(grammars: GrammarCompiler) -> None:
    text = await refused(grammars, "regex", "a" * (MAX_GRAMMAR_CHARACTERS + 1))
    assert f"more than {MAX_GRAMMAR_CHARACTERS} characters" in text


async def test_compiled_grammars_are_cached_and_evicted_in_order(
    grammars: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [GrammarSource(GrammarKind.REGEX, f"a{{{count}}}") for count in range(1, 5)]
    first = [await grammars.compile(source) for source in sources]
    assert list(grammars._cache) == sources
    await grammars.compile(sources[0])
    monkeypatch.setattr("router.text.grammar.MAX_CACHED_BYTES", grammars._cached_bytes)
    await grammars.compile(GrammarSource(GrammarKind.REGEX, "b"))
    assert sources[0] in grammars._cache
    assert sources[1] not in grammars._cache
    assert await grammars.compile(sources[1]) == first[1]


async def test_the_size_of_the_cached_grammars_is_that_of_their_text(
    grammars: GrammarCompiler,
) -> None:
    sources = [GrammarSource(GrammarKind.REGEX, text) for text in ("a", "世" * 50, "é", "世" * 50)]
    compiled = await asyncio.gather(*map(grammars.compile, sources))
    entries = {source.text: str(text) for source, text in zip(sources, compiled, strict=True)}
    assert grammars._cached_bytes == sum(map(getsizeof, [*entries, *entries.values()]))
    assert grammars._cached_bytes > sum(len(text.encode()) for text in entries.values())


async def test_a_grammar_larger_than_the_cache_is_compiled_and_not_kept(
    grammars: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.text.grammar.MAX_CACHED_BYTES", 100)
    source = GrammarSource(GrammarKind.REGEX, "a{3}")
    assert await grammars.compile(source) == await grammars.compile(source)
    assert (len(grammars._cache), grammars._cached_bytes) == (0, 0)


async def test_a_server_with_grammars_disabled_refuses_them(folder: Path) -> None:
    workers = WorkerPool(WorkerFiles(str(folder), 300), 1)
    off = GrammarCompiler(workers, enabled=False)
    assert await off.compile(None) is None
    assert await refused(off, "regex", "a") == "Input validation error: grammar is not supported"


@pytest.mark.parametrize("kind", ["json", "json_object"])
@pytest.mark.parametrize("value", [{"type": "object"}, [], 5, "{}", "5", "not json", '{"a":'])
def test_native_json_needs_properties(kind: str, value: Any) -> None:
    with pytest.raises(ValidationError, match="grammar is not valid: "):
        parse_grammar(kind, value)


def test_native_json_is_a_schema_or_its_text() -> None:
    schema: dict[str, Any] = {"properties": {"a": {}}}
    sources = [parse_grammar("json", schema), parse_grammar("json_object", json.dumps(schema))]
    sources.append(parse_grammar("json_schema", {"name": "n", "schema": schema}))
    assert sources == [from_schema(schema)] * 3


@pytest.mark.parametrize("kind", ["regex", "lark"])
def test_other_grammars_must_be_text(kind: str) -> None:
    assert parse_grammar(kind, "a") == GrammarSource(GrammarKind(kind), "a")
    with pytest.raises(ValidationError, match="its value must be a string"):
        parse_grammar(kind, {"a": 1})


def test_a_schema_cannot_change_how_it_is_compiled() -> None:
    assert from_schema({"x-guidance": {"lenient": True}, "not": {}}).text == '{"not":{}}'


async def test_grammars_are_refused_with_a_tokenizer_that_llguidance_cannot_read(
    tmp_path: Path,
) -> None:
    words = Tokenizer(WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    words.save(str(tmp_path / "tokenizer.json"))
    workers = WorkerPool(WorkerFiles(str(tmp_path), 3), 1)
    try:
        message = await refused(GrammarCompiler(workers), "regex", "a+")
        assert "grammars are not supported with this tokenizer" in message
    finally:
        await workers.close()
