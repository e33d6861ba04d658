# ruff: noqa: RUF001 - the full-width bars are DeepSeek's own marks
"""Tool calls and reasoning are found in any family's text, however it is cut into pieces."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import fields

import pytest

from router.config import ServerConfig
from router.openai.chat import assistant_message, merge_call_deltas
from router.openai.parsing import tool_call_formats
from router.openai.parsing.call_values import Tools
from router.openai.parsing.harmony import FINAL_HEADER, HarmonyParser
from router.openai.parsing.output import (
    DelegatingOutputParser,
    OutputDelta,
    ReasoningSplitter,
    find_reasoning_tags,
)
from router.openai.parsing.tool_call_formats import JSON_FORMAT, ToolCallFormat
from router.openai.parsing.tool_calls import (
    ForcedCall,
    KnownTools,
    NoToolCalls,
    StreamedCalls,
    ToolCallParser,
    held_suffix_length,
)

TOOLS: Tools = {"f": {}, "get_weather": {}}
HERMES, CODER = tool_call_formats.FORMATS["hermes"], tool_call_formats.FORMATS["qwen3_coder"]
MISTRAL, DEEPSEEK = tool_call_formats.FORMATS["mistral"], tool_call_formats.FORMATS["deepseek"]
LLAMA = tool_call_formats.FORMATS["llama3_json"]
SEP, CALL, END = "<｜tool▁sep｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
FENCE = "```"
GLM, GRANITE = tool_call_formats.FORMATS["glm"], tool_call_formats.FORMATS["granite"]
HARMONY = tool_call_formats.FORMATS["harmony"]
F1 = ("f", {"x": 1})
WEATHER = ("get_weather", {"city": "São Paulo", "days": [1, 2]})
CITY = '{"city": "São Paulo", "days": [1, 2]}'
GOOD: list[tuple[ToolCallFormat, str, str, list[tuple[str, object]]]] = [
    (HERMES, '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>', "", [F1]),
    (
        HERMES,
        f'I look.\n<tool_call>{{"name": "get_weather", "arguments": {CITY}}}</tool_call>\n'
        '<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>',
        "I look.",
        [WEATHER, F1],
    ),
    (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"x\\": 1}"}</tool_call>', "", [F1]),
    (HERMES, '<tool_call>{"name": "f", "arguments": {"x": 1}}', "", [F1]),
    (
        HERMES,
        '<tool_call>{"name": "f", "arguments": {"x": 1}}\n'
        f'{{"name": "get_weather", "arguments": {CITY}}}</tool_call>',
        "",
        [F1, WEATHER],
    ),
    (
        HERMES,
        '<tool_call>{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}'
        "</tool_call>",
        "",
        [F1],
    ),
    (LLAMA, '{"type": "function", "function": "f", "parameters": {"x": 1}}', "", [F1]),
    (
        CODER,
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nSão Paulo\n</parameter>\n"
        "<parameter=days>\n[1, 2]\n</parameter>\n</function>\n</tool_call>",
        "",
        [WEATHER],
    ),
    (
        CODER,
        "I look.\n\n<function=get_weather>\n<parameter=city>\nSão Paulo\n</parameter>\n"
        "<parameter=days>\n[1, 2]\n</parameter>\n</function>\n</tool_call>",
        "I look.",
        [WEATHER],
    ),
    (CODER, "<function=f>\n<parameter=x>\n1\n</parameter>\n</function>", "", [F1]),
    (
        CODER,
        "<function=f><parameter=x>1</parameter></function>\n</tool_call>\n"
        "<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call>",
        "",
        [F1, F1],
    ),
    (
        CODER,
        "<function=f><parameter=x>1</parameter></function>\n"
        "<function=f>\n<parameter=x>\n1\n</parameter>\n</function>",
        "",
        [F1, F1],
    ),
    (
        CODER,
        "<tool_call><function=f><parameter=x>1</parameter></function></tool_call>"
        "<function=f><parameter=x>1</parameter></function></tool_call>",
        "",
        [F1, F1],
    ),
    (CODER, "<function=f>\n</function>", "", [("f", {})]),
    (
        GLM,
        "I look.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>São Paulo"
        "</arg_value>\n<arg_key>days</arg_key>\n<arg_value>[1, 2]</arg_value>\n</tool_call>",
        "I look.",
        [WEATHER],
    ),
    (GLM, "<tool_call>f\n</tool_call>", "", [("f", {})]),
    (GRANITE, '<|tool_call|>[{"name": "f", "arguments": {"x": 1}}]', "", [F1]),
    (MISTRAL, '[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}}]', "", [F1]),
    (MISTRAL, f'[TOOL_CALLS]get_weather[ARGS]{CITY}[TOOL_CALLS]f{{"x": 1}}', "", [WEATHER, F1]),
    (
        DEEPSEEK,
        f'Sure.<｜tool▁calls▁begin｜>{CALL}function{SEP}f\n{FENCE}json\n{{"x": 1}}\n{FENCE}{END}\n'
        f"{CALL}function{SEP}get_weather\n{FENCE}json\n{CITY}\n{FENCE}{END}<｜tool▁calls▁end｜>",
        "Sure.",
        [F1, WEATHER],
    ),
    (
        DEEPSEEK,
        f'<｜tool▁calls▁begin｜>{CALL}f{SEP}{{"x": 1}}{END}<｜tool▁calls▁end｜>',
        "",
        [F1],
    ),
    (LLAMA, '{"name": "f", "parameters": {"x": 1}}', "", [F1]),
    (LLAMA, f'<|python_tag|>{{"name": "get_weather", "parameters": {CITY}}}', "", [WEATHER]),
    (
        LLAMA,
        '{"name": "f", "parameters": {"x": 1}}; '
        f'{{"name": "get_weather", "parameters": {CITY}}}',
        "",
        [F1, WEATHER],
    ),
    (JSON_FORMAT, f'\n[{{"name": "get_weather", "arguments": {CITY}}}]', "", [WEATHER]),
]
NO_CALLS: list[tuple[ToolCallFormat, str]] = [
    (HERMES, "Nothing here, but < and <tool and <tool_calls>."),
    (HERMES, "<tool_call>not JSON</tool_call> and more"),
    (HERMES, '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
    (HERMES, '<tool_call>{"name": "f", "arguments": [1]}</tool_call>\n\n'),
    (HERMES, '<tool_call>{"name": "f", "arg'),
    (HERMES, "ends in white space \n\n"),
    (CODER, "<tool_call><function=f>no end</tool_call>"),
    (CODER, "Write <function=f> and then its parameters."),
    (CODER, "<function=unknown><parameter=x>1</parameter></function>"),
    (CODER, "<function=f><parameter=x>1</function>"),
    (CODER, "<function=f\n> <function= and <functions"),
    (GLM, "<tool_call>f\n<arg_key>x</arg_key></tool_call>"),
    (GRANITE, "<|tool_call|>[]"),
    (MISTRAL, "[TOOL_CALLS] what"),
    (LLAMA, '{"name": "unknown", "parameters": {}}'),
    (LLAMA, '{"a": '),
    (LLAMA, "Plain text with {braces}."),
    (JSON_FORMAT, "[1, 2, 3]"),
    (JSON_FORMAT, "42"),
]


def random_pieces(text: str, seed: int) -> list[str]:
    """`text` in random pieces, some of them empty."""
    rng = random.Random(seed)
    places = sorted(rng.randint(0, len(text)) for _ in range(rng.randint(0, len(text))))
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


def parse(new_parser: Callable[[], ToolCallParser], text: str, seed: int) -> list[OutputDelta]:
    reply, pieces = DelegatingOutputParser(None, new_parser()), random_pieces(text, seed)
    return [reply.push(piece, last=place == len(pieces)) for place, piece in enumerate(pieces, 1)]


def parser_factory(
    format: ToolCallFormat, max_calls: int | None = None
) -> Callable[[], ToolCallParser]:
    return lambda: StreamedCalls(format, TOOLS, max_calls)


@pytest.mark.parametrize(("format", "text", "content", "calls"), GOOD)
def test_calls_are_read_however_the_text_is_cut(
    format: ToolCallFormat, text: str, content: str, calls: list[tuple[str, object]]
) -> None:
    for seed in range(60):
        deltas = parse(parser_factory(format), text, seed)
        told = assistant_message(deltas)
        assert (told["content"] or "") == content
        found = [
            (c["function"]["name"], json.loads(c["function"]["arguments"]))
            for c in told["tool_calls"]
        ]
        assert found == calls
        ids = [call["id"] for call in told["tool_calls"]]
        assert len(set(ids)) == len(calls)
        assert all(re.fullmatch("call_[0-9a-f]{24}", id) for id in ids)


@pytest.mark.parametrize(("format", "text"), NO_CALLS)
def test_what_is_no_call_is_content_to_the_last_character(
    format: ToolCallFormat, text: str
) -> None:
    for seed in range(60):
        deltas = parse(parser_factory(format), text, seed)
        assert "".join(delta.content for delta in deltas) == text
        assert not any(delta.calls for delta in deltas)


def test_without_parallel_calls_the_first_is_the_only_one() -> None:
    _, text, _, calls = GOOD[1]
    told = assistant_message(parse(parser_factory(HERMES, max_calls=1), text, 3))
    assert [call["function"]["name"] for call in told["tool_calls"]] == [calls[0][0]]


@pytest.mark.parametrize(
    "arguments",
    ["{}", '{"x": [1e400, 123456789012345678901]}', '{"x": {"y": "}"}}', '{ "x" : [1, "a\\"}"] }'],
)
def test_the_arguments_of_a_forced_call_come_as_they_are_written(arguments: str) -> None:
    heads = {
        '{"name": "f", "arguments": ': "f",
        '{"name": "get_weather", "arguments": ': "get_weather",
    }
    for head, name in heads.items():
        for seed in range(60):
            deltas = parse(lambda: ForcedCall(heads), f"{head}{arguments}}}", seed)
            [call] = merge_call_deltas(part for delta in deltas for part in delta.calls)
            assert (call.name, call.arguments) == (name, arguments)
            first, *others = [part for delta in deltas for part in delta.calls]
            assert first.id
            assert not any(part.id or part.name for part in others)
            assert not any(delta.content for delta in deltas)


def test_a_forced_call_that_is_cut_short_is_told_as_far_as_it_goes() -> None:
    heads = {'{"name": "f", "arguments": ': "f"}
    told = assistant_message(
        parse(lambda: ForcedCall(heads), '{"name": "f", "arguments": {"x": "}', 1)
    )
    assert told["tool_calls"][0]["function"]["arguments"] == '{"x": "}'
    assert (
        assistant_message(parse(lambda: ForcedCall(heads), '{"name": "', 1))["content"]
        == '{"name": "'
    )


@pytest.mark.parametrize(
    ("text", "begun", "reasoning", "content"),
    [
        ("<think>\nWhy not.\n</think>\n\nYes.", False, "Why not.", "Yes."),
        ("Why not.\n</think>\n\nYes. ", True, "Why not.", "Yes. "),
        ("Yes. <think>no</think>", False, "", "Yes. <think>no</think>"),
        ("<thin", False, "", "<thin"),
        ("<think>cut short </thi", False, "cut short </thi", ""),
        ("</think>Only.", True, "", "Only."),
        ("a </th b</think> c", True, "a </th b", "c"),
        ("", False, "", ""),
    ],
)
def test_reasoning_is_parted_from_content(
    text: str, begun: bool, reasoning: str, content: str
) -> None:
    for seed in range(60):
        reply = DelegatingOutputParser(
            ReasoningSplitter(("<think>", "</think>"), begun), NoToolCalls()
        )
        pieces = random_pieces(text, seed)
        deltas = [reply.push(piece, place == len(pieces)) for place, piece in enumerate(pieces, 1)]
        assert "".join(delta.reasoning for delta in deltas) == reasoning
        assert "".join(delta.content for delta in deltas) == content


def test_calls_are_found_behind_reasoning() -> None:
    text = "<think>call <tool_call>?</think>" + GOOD[0][1]
    for seed in range(60):
        reply = DelegatingOutputParser(
            ReasoningSplitter(("<think>", "</think>"), False), StreamedCalls(HERMES, TOOLS)
        )
        pieces = random_pieces(text, seed)
        deltas = [reply.push(piece, place == len(pieces)) for place, piece in enumerate(pieces, 1)]
        told = assistant_message(deltas)
        assert told["reasoning_content"] == "call <tool_call>?"
        assert told["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"x": 1}'}
        assert reply.has_calls


def parse_harmony(
    text: str, seed: int, prompt: str = "<|start|>assistant"
) -> tuple[HarmonyParser, list[OutputDelta]]:
    reader, pieces = (
        HarmonyParser(KnownTools(TOOLS, None), prompt),
        random_pieces(text, seed),
    )
    return reader, [reader.push(piece, at == len(pieces)) for at, piece in enumerate(pieces, 1)]


ANALYSIS = "<|channel|>analysis<|message|>"
ASSISTANT = "<|end|><|start|>assistant"


@pytest.mark.parametrize(
    ("text", "reasoning", "content", "calls"),
    [
        (f"{ANALYSIS}Why < not.{ASSISTANT}{FINAL_HEADER}Yes.<|return|>", "Why < not.", "Yes.", []),
        (f"{FINAL_HEADER}Yes. ", "", "Yes. ", []),
        (f"<|channel|>final <|constrain|>json<|message|>{CITY}<|return|>", "", CITY, []),
        (
            f"{ANALYSIS}Look.{ASSISTANT}<|channel|>commentary to=functions.get_weather "
            f"<|constrain|>json<|message|>{CITY}<|call|>",
            "Look.",
            "",
            [WEATHER],
        ),
        (
            ' to=functions.f<|channel|>commentary json<|message|>{"x": 1}<|call|><|start|>assistant'
            f"<|channel|>commentary to=functions.get_weather<|message|>{CITY}",
            "",
            "",
            [F1, WEATHER],
        ),
        (
            f"{ANALYSIS}One.{ASSISTANT}{ANALYSIS}Two.{ASSISTANT}<|channel|>commentary<|message|>"
            f"I look.{ASSISTANT}{FINAL_HEADER}Done.<|return|>",
            "One.\nTwo.",
            "I look.\nDone.",
            [],
        ),
        (f"{ANALYSIS}cut short <|en", "cut short <|en", "", []),
        (f"{ANALYSIS}a{ASSISTANT}<|channel|>fin", "a", "", []),
        ("<|channel|>analys", "", "", []),
        ("no format at all", "", "no format at all", []),
        ("<|channel|>commentary to=functions.unknown<|message|>{}<|call|>", "", "{}", []),
        ('<|channel|>commentary to=functions.f<|message|>{"x": <|call|>', "", '{"x": ', []),
        (f"{ANALYSIS[:-11]} to=python<|message|>print(1)<|call|>", "print(1)", "", []),
        ("", "", "", []),
    ],
)
def test_the_messages_of_an_answer_are_told_by_their_channels(
    text: str, reasoning: str, content: str, calls: list[tuple[str, object]]
) -> None:
    for seed in range(60):
        reader, deltas = parse_harmony(text, seed)
        told = assistant_message(deltas)
        assert (told.get("reasoning_content", ""), told["content"] or "") == (reasoning, content)
        found = [call["function"] for call in told.get("tool_calls", ())]
        assert [(call["name"], json.loads(call["arguments"])) for call in found] == calls
        assert reader.has_calls == bool(calls)


def test_text_of_a_message_is_told_as_it_comes_and_goes_on_from_the_prompt() -> None:
    for prompt in ("<|start|>assistant", f"<|start|>assistant{FINAL_HEADER}It"):
        reader = HarmonyParser(KnownTools(TOOLS, None), prompt)
        reader.push("" if prompt.endswith("It") else FINAL_HEADER, last=False)
        assert reader.push(" is <|", last=False) == OutputDelta(" is ")
        assert reader.push("so|>", last=False) == OutputDelta("<|so|>")
        assert reader.push("<|return|>", last=True) == OutputDelta()


def test_the_template_names_the_format_and_the_marks() -> None:
    assert tool_call_formats.detect_format("{{ '<tool_call>' }}") is HERMES
    assert tool_call_formats.detect_format("<tool_call><function=") is CODER
    assert tool_call_formats.detect_format("[TOOL_CALLS] [AVAILABLE_TOOLS]") is MISTRAL
    assert tool_call_formats.detect_format("{{ tools }} <|python_tag|>") is LLAMA
    assert (
        tool_call_formats.detect_format("{{ '<|start|>assistant<|channel|>analysis<|message|>' }}")
        is HARMONY
    )
    assert tool_call_formats.detect_format("<tool_call><arg_key>") is GLM
    assert tool_call_formats.detect_format("{{ tools }} <|tool_call|>") is GRANITE
    assert tool_call_formats.detect_format("{{ '<｜tool▁calls▁begin｜>' }}") is DEEPSEEK
    assert tool_call_formats.detect_format("{{ messages }}") is JSON_FORMAT
    assert find_reasoning_tags("{% if '</think>' in content %}") == ("<think>", "</think>")
    assert find_reasoning_tags("{{ messages }}") is None


def test_what_waits_is_the_longest_start_of_a_mark_and_the_blanks_before_it() -> None:
    assert held_suffix_length("a \n<to", "<tool>") == 5
    assert held_suffix_length("a <<", "<tool>") == 1
    assert held_suffix_length("a b", "<tool>") == 0


def test_the_flag_names_every_format() -> None:
    [flag] = [each for each in fields(ServerConfig) if each.name == "tool_call_parser"]
    assert flag.metadata["choices"] == ("auto", *tool_call_formats.FORMATS)
