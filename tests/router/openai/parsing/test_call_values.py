# ruff: noqa: RUF001 - the full-width bars are DeepSeek's own marks
"""Any value survives in a call of any format, with every mark of the formats in its strings."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.openai.chat import assistant_message
from router.openai.parsing.argument_types import argument_json
from router.openai.parsing.call_values import Tools
from router.openai.parsing.harmony import HarmonyParser
from router.openai.parsing.json_scanner import JsonScanner, is_json, json_items
from router.openai.parsing.output import DelegatingOutputParser, OutputDelta, OutputParser
from router.openai.parsing.tool_call_formats import FORMATS
from router.openai.parsing.tool_calls import KnownTools, StreamedCalls

STRING = {"type": "string"}
TOOLS: Tools = {
    "f": {},
    "write_file": {
        "properties": {"content": STRING, "path": STRING, "options": {"type": "object"}}
    },
}
MARKS = (
    *("<tool_call>", "</tool_call>", "<|tool_call|>", "<|/tool_call|>", "[TOOL_CALLS]", "[ARGS]"),
    *("[CALL_ID]", ";", "; ", "<|python_tag|>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
    *("<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>", "```", "\n```", "```json\n"),
    *("<|channel|>", "<|message|>", "<|call|>", "<|end|>", "<|start|>", "<function=f>", "{", "}"),
    *("</function>", "<parameter=content>", "</parameter>", "<arg_key>", "</arg_key>", "[", "]"),
    *("<arg_value>", "</arg_value>", '"', "\\", "\\u00e9", "\n", "f", ' {"name": "f"}'),
)
TEXTS = st.lists(st.sampled_from(MARKS) | st.text(max_size=3), max_size=6).map("".join)
NUMBERS = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[Any] = st.recursive(
    TEXTS | NUMBERS | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(TEXTS, VALUES, max_size=3)
Calls = Sequence[tuple[str, str]]


def hermes(calls: Calls) -> str:
    return "\n".join(
        f'<tool_call>\n{{"name": "{name}", "arguments": {text}}}\n</tool_call>'
        for name, text in calls
    )


def objects(calls: Calls, key: str = "arguments", separator: str = ", ") -> str:
    return separator.join(f'{{"name": "{name}", "{key}": {text}}}' for name, text in calls)


def deepseek(calls: Calls, begin: str, end: str) -> str:
    parts = "\n".join(
        f"<｜tool▁call▁begin｜>{begin % name}{text}{end}<｜tool▁call▁end｜>" for name, text in calls
    )
    return f"<｜tool▁calls▁begin｜>{parts}<｜tool▁calls▁end｜>"


def harmony(calls: Calls) -> str:
    return "<|start|>assistant".join(
        f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{text}<|call|>"
        for name, text in calls
    )


WRITERS: Mapping[str, tuple[str, Callable[[Calls], str]]] = {
    "hermes": ("hermes", hermes),
    "llama": ("llama3_json", lambda calls: objects(calls, "parameters", "; ")),
    "llama with its mark": ("llama3_json", lambda calls: "<|python_tag|>" + objects(calls[:1])),
    "json": ("json", lambda calls: f"[{objects(calls)}]"),
    "mistral": ("mistral", lambda calls: f"[TOOL_CALLS] [{objects(calls)}]"),
    "mistral with names": (
        "mistral",
        lambda calls: "".join(f"[TOOL_CALLS]{name}{text}" for name, text in calls),
    ),
    "mistral with ids": (
        "mistral",
        lambda calls: "".join(
            f"[TOOL_CALLS]{name}[CALL_ID]a1B2c3D4e[ARGS]{text}" for name, text in calls
        ),
    ),
    "granite": ("granite", lambda calls: f"<|tool_call|>[{objects(calls)}]"),
    "granite with an end": (
        "granite",
        lambda calls: f"<|tool_call|>[{objects(calls)}]<|/tool_call|>",
    ),
    "deepseek": ("deepseek", lambda calls: deepseek(calls, "%s<｜tool▁sep｜>", "")),
    "deepseek r1": (
        "deepseek",
        lambda calls: deepseek(calls, "function<｜tool▁sep｜>%s\n```json\n", "\n```"),
    ),
    "harmony": ("harmony", harmony),
}


def new_parser(format: str, tools: Tools = TOOLS) -> OutputParser:
    if format == "harmony":
        return HarmonyParser(KnownTools(tools, None), "<|start|>assistant")
    return DelegatingOutputParser(None, StreamedCalls(FORMATS[format], tools, None))


def push_all(parser: OutputParser, text: str, seed: int) -> list[OutputDelta]:
    """The deltas of `text`, cut at random; seed 0 stands for single characters, 1 for no cut."""
    rng = random.Random(seed)
    cuts = sorted(rng.randint(0, len(text)) for _ in range(rng.randint(0, 12)))
    if seed < 2:
        cuts = [] if seed else list(range(1, len(text)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    return [parser.push(piece, at == len(pieces)) for at, piece in enumerate(pieces, 1)]


def parse(format: str, text: str, seed: int = 0, tools: Tools = TOOLS) -> tuple[str, list[Any]]:
    """Content, and name and arguments of each call."""
    message = assistant_message(push_all(new_parser(format, tools), text, seed))
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return message["content"] or "", [(call["name"], call["arguments"]) for call in calls]


@given(
    writer=st.sampled_from(sorted(WRITERS)),
    arguments=st.lists(ARGUMENTS, min_size=1, max_size=2),
    indent=st.sampled_from([None, 1]),
    ascii=st.booleans(),
    seed=st.integers(0, 1 << 16),
)
def test_arguments_come_back_as_the_model_wrote_them(
    writer: str, arguments: list[Any], indent: int | None, ascii: bool, seed: int
) -> None:
    format, write = WRITERS[writer]
    texts = [json.dumps(value, indent=indent, ensure_ascii=ascii) for value in arguments]
    texts = texts[:1] if writer == "llama with its mark" else texts
    calls = [("f", text) for text in texts]
    assert parse(format, write(calls), seed) == ("", calls)


RAW = (
    '{"n": 123456789012345678901234567890}',
    '{"n": [1e400, -1E+400, 1e-999]}',
    '{ "a" : 1,\t"a" : 2 }',
    '{"z": 1, "a": 1.00, "m": -0}',
    '{"s": "\\u00e9\\/\\ud83d\\ude00", "half": "\\ud83d"}',
    '{"deep": ' + "[" * 500 + "]" * 500 + "}",
    "{}",
)


@pytest.mark.parametrize("writer", sorted(WRITERS))
@pytest.mark.parametrize("raw", RAW)
def test_numbers_order_and_white_space_stay_as_they_are(writer: str, raw: str) -> None:
    format, write = WRITERS[writer]
    for seed in range(6):
        assert parse(format, write([("f", raw)]), seed) == ("", [("f", raw)])


@pytest.mark.parametrize("writer", sorted(WRITERS))
@pytest.mark.parametrize(
    "text",
    [
        "Use </tool_call> to close",
        "first; second",
        "Start with [TOOL_CALLS] and [ARGS]",
        "<|/tool_call|> ends it",
        "a <|call|> and <|end|> later",
        "```\nfence\n```",
        "the <|python_tag|> mark",
    ],
)
def test_a_mark_inside_a_string_is_text(writer: str, text: str) -> None:
    format, write = WRITERS[writer]
    arguments = json.dumps({"content": text})
    for seed in range(6):
        calls = [("write_file", arguments)]
        assert parse(format, write(calls), seed) == ("", calls)


@pytest.mark.parametrize("writer", sorted(WRITERS))
@pytest.mark.parametrize("raw", ["null", '""', '" "', '"null"', '"{}"'])
def test_a_call_without_arguments_is_a_call(writer: str, raw: str) -> None:
    format, write = WRITERS[writer]
    if writer != "mistral with names":
        assert parse(format, write([("f", raw)])) == ("", [("f", "{}")])


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("hermes", '<tool_call>{"name": "f"}</tool_call>'),
        ("llama3_json", '{"name": "f"}'),
        ("llama3_json", '{"type": "function", "name": "f", "parameters": null};'),
        ("mistral", '[TOOL_CALLS] [{"name": "f"}]'),
        ("mistral", "[TOOL_CALLS]f[ARGS]"),
        ("granite", '<|tool_call|>[{"name": "f"}]'),
        ("deepseek", deepseek([("f", "")], "%s<｜tool▁sep｜>", "")),
        ("deepseek", deepseek([("f", "")], "function<｜tool▁sep｜>%s\n```json\n", "\n```")),
        ("harmony", harmony([("f", "")])),
        ("qwen3_coder", "<tool_call>\n<function=f>\n</function>\n</tool_call>"),
        ("glm", "<tool_call>f</tool_call>"),
    ],
)
def test_a_call_that_lacks_its_arguments_has_an_empty_object(format: str, text: str) -> None:
    for seed in range(20):
        assert parse(format, text, seed) == ("", [("f", "{}")])


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "}\n"}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 01}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1,}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a" 1}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": "text"}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": "\\"{\\\\ud800\\""}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": 5}</tool_call>'),
        ("hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
        ("hermes", "<tool_call><tool_call>"),
        ("llama3_json", '{"name": "f", "parameters": {"a": "cut'),
        ("llama3_json", '<|python_tag|>search.call(query="a")'),
        ("mistral", "[TOOL_CALLS]f[ARGS]text"),
        ("mistral", "[TOOL_CALLS]f"),
        ("deepseek", "<｜tool▁calls▁begin｜>nothing"),
        ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{]"),
        ("qwen3_coder", "<tool_call><function=f><parameter=a>1</function></tool_call>"),
        ("glm", "<tool_call>f<arg_key>a</arg_key>1</arg_value></tool_call>"),
    ],
)
def test_what_is_malformed_stays_content(format: str, text: str) -> None:
    for seed in range(20):
        assert parse(format, text, seed) == (text, [])


def test_a_call_is_returned_when_its_json_is_complete_and_content_before_it_at_once() -> None:
    parser = new_parser("hermes")
    assert parser.push("Look. ", last=False).content == "Look."
    assert parser.push('\n<tool_call>{"name": "f", "arguments": {"a": "}', last=False).calls == ()
    [call] = parser.push('"}}', last=False).calls
    assert call.arguments == '{"a": "}"}'
    assert parser.push("\n</tool_call>", last=False) == OutputDelta()
    assert parser.push(" Done", last=False).content == " Done"
    assert parser.push(".", last=True).content == "."


def test_a_second_call_of_llama_does_not_delay_the_first() -> None:
    parser = new_parser("llama3_json")
    [call] = parser.push('{"name": "f", "parameters": {"a": "; {"}}', last=False).calls
    assert call.arguments == '{"a": "; {"}'
    assert parser.push('; {"name": "f", "parameters": {}', last=False) == OutputDelta()
    [call] = parser.push("}", last=True).calls
    assert (call.index, call.arguments) == (1, "{}")


def coder(calls: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    return "\n".join(
        f"<tool_call>\n<function={name}>\n"
        + "".join(f"<parameter={key}>\n{text}\n</parameter>\n" for key, text in values.items())
        + "</function>\n</tool_call>"
        for name, values in calls
    )


def glm(calls: Sequence[tuple[str, Mapping[str, str]]]) -> str:
    return "\n".join(
        f"<tool_call>{name}"
        + "".join(
            f"\n<arg_key>{key}</arg_key>\n<arg_value>{text}</arg_value>"
            for key, text in values.items()
        )
        + "\n</tool_call>"
        for name, values in calls
    )


ELEMENT_WRITERS = {"qwen3_coder": coder, "glm": glm}
AMBIGUOUS = ("<parameter=path>", "<parameter=options>", "<arg_key>")
ELEMENT_TEXTS = TEXTS.filter(
    lambda text: (
        not any(mark in text for mark in AMBIGUOUS)
        and not ("tool_call>" in text and "<function=f>" in text)
        and "<tool_call>f" not in text.replace(" ", "").replace("\n", "")
    )
)


@given(
    format=st.sampled_from(sorted(ELEMENT_WRITERS)),
    contents=st.lists(ELEMENT_TEXTS, min_size=1, max_size=2),
    options=st.none() | st.dictionaries(TEXTS, VALUES, max_size=2),
    seed=st.integers(0, 1 << 16),
)
def test_declared_strings_and_objects_come_back_from_elements(
    format: str, contents: list[str], options: Any, seed: int
) -> None:
    values = [{"content": text, "path": text} for text in contents]
    texts = [dict(value) for value in values]
    if options is not None and not any(mark in json.dumps(options) for mark in MARKS[:2]):
        values = [{**value, "options": options} for value in values]
        texts = [{**text, "options": json.dumps(options)} for text in texts]
    output = ELEMENT_WRITERS[format]([("write_file", text) for text in texts])
    content, calls = parse(format, output, seed)
    assert content == ""
    assert [name for name, _ in calls] == ["write_file"] * len(values)
    assert [json.loads(arguments) for _, arguments in calls] == values


@pytest.mark.parametrize(
    "text",
    [
        "Use </parameter> to close",
        "Use </parameter></function></tool_call> to close",
        "</arg_value></tool_call> then <tool_call> again",
        "</parameter>\n</function>",
        "</arg_value>\n<arg_key>",
        "<parameter=content>\nx\n</parameter>",
        "a <tool_call> b </tool_call> c",
        "123",
        '{"a": 1}',
        " true ",
        "null",
        '"quoted"',
        "",
    ],
)
@pytest.mark.parametrize("format", sorted(ELEMENT_WRITERS))
def test_a_string_may_hold_what_ends_an_element(format: str, text: str) -> None:
    output = ELEMENT_WRITERS[format](
        [("write_file", {"content": text, "path": "a"}), ("write_file", {"path": text})]
    )
    for seed in range(20):
        content, calls = parse(format, f"Well.\n{output}", seed)
        assert content == "Well."
        assert [json.loads(arguments) for _, arguments in calls] == [
            {"content": text, "path": "a"},
            {"path": text},
        ]


def test_text_after_a_call_of_elements_is_content() -> None:
    for format, write in ELEMENT_WRITERS.items():
        for seed in range(20):
            output = write([("f", {"a": "1"})])
            expected = (" Done.", [("f", '{"a":1}')])
            assert parse(format, f"{output} Done.", seed) == expected
            content, calls = parse(format, f"{output} Then {output}", seed)
            assert (content, len(calls)) == (" Then", 2)


CODES = {"enum": ["1", "auto", 2]}
ROOT = {"$defs": {"Text": STRING, "Size": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (STRING, "123", '"123"'),
        (STRING, '{"a": 1}', '"{\\"a\\": 1}"'),
        (STRING, " null\n", '" null\\n"'),
        ({"type": "str"}, "1", '"1"'),
        ({"enum": ["1", "2"]}, "1", '"1"'),
        ({"const": "true"}, "true", '"true"'),
        ({"$ref": "#/$defs/Text"}, "5", '"5"'),
        ({"$ref": "#/$defs/Size"}, "5", "5"),
        ({"$ref": "#/$defs/Missing"}, "5", "5"),
        ({"allOf": [{"$ref": "#/$defs/Text"}]}, "5", '"5"'),
        ({"anyOf": [STRING, {"type": "null"}]}, "5", '"5"'),
        ({"anyOf": [STRING, {"type": "null"}]}, "null", "null"),
        ({"type": ["string", "null"]}, "nil", '"nil"'),
        ({**STRING, "nullable": True}, "null", "null"),
        ({"oneOf": [STRING, {"type": "integer"}]}, "5", "5"),
        ({"oneOf": [STRING, {"type": "integer"}]}, "5.5", '"5.5"'),
        (CODES, "1", '"1"'),
        (CODES, "2", "2"),
        ({"type": "integer"}, " 5 ", "5"),
        ({"type": "integer"}, "123456789012345678901234567890", "123456789012345678901234567890"),
        ({"type": "number"}, "1e400", "1e400"),
        ({"type": "number"}, "five", '"five"'),
        ({"type": "boolean"}, "True", "true"),
        ({"type": "boolean"}, "false", "false"),
        ({"type": ["integer", "null"]}, "None", "null"),
        ({"type": "object"}, '\n{"a": "</parameter>"}', '{"a": "</parameter>"}'),
        ({"type": "array"}, "[1, 2", '"[1, 2"'),
        ({"type": "array"}, "['a', 1, True]", '["a", 1, true]'),
        ({"type": "object"}, "{'a': None}", '{"a": null}'),
        ({"type": "object"}, "['a']", "\"['a']\""),
        ({"type": "array"}, "[1e999, 'a']", "\"[1e999, 'a']\""),
        ({"type": "object"}, "{1, 2}", '"{1, 2}"'),
        ({"type": ["array", "string"]}, "['a']", "\"['a']\""),
        ({"items": STRING}, '["1"]', '["1"]'),
        (None, "123", "123"),
        (None, "text", '"text"'),
        (True, "[1]", "[1]"),
        ({"description": "anything"}, "NaN", '"NaN"'),
    ],
)
def test_an_argument_has_the_type_that_its_schema_declares(
    schema: Any, text: str, value: str
) -> None:
    assert argument_json(text, schema, ROOT) == value


def test_references_in_a_circle_allow_anything() -> None:
    root = {"$defs": {"A": {"$ref": "#/$defs/A"}}}
    assert argument_json("5", {"$ref": "#/$defs/A"}, root) == "5"


@given(VALUES, st.text(alphabet=" \t\n", max_size=2))
def test_the_scanner_accepts_what_json_dumps_writes_and_splits_it(value: Any, space: str) -> None:
    text = json.dumps(value)
    assert is_json(f"{space}{text}{space}")
    if isinstance(value, dict):
        items = json_items(text)
        assert {
            json.loads(k): json.loads(v) for k, v in zip(items[::2], items[1::2], strict=True)
        } == value
    if isinstance(value, list):
        assert [json.loads(item) for item in json_items(text)] == value


def reject(text: str) -> Any:
    raise ValueError(text)


@given(st.text(alphabet='{}[]",:\\u0e1.-+ \ntruefalsn', max_size=12))
def test_the_scanner_agrees_with_the_standard_library(text: str) -> None:
    try:
        json.loads(text, parse_constant=reject)
    except ValueError:
        assert not is_json(text)
    else:
        assert is_json(text)


@given(VALUES, st.integers(0, 1 << 16))
def test_the_scanner_finds_the_same_end_however_the_text_is_cut(value: Any, seed: int) -> None:
    text = json.dumps(value) + " tail"
    scanner, rng, size = JsonScanner(), random.Random(seed), 0
    while scanner.scan(text[:size], last=size == len(text)) is None:
        size = min(len(text), size + rng.randint(1, 5))
    assert scanner.position == len(text) - len(" tail")
