"""Log-probabilities over real tokenizers: own bytes, offsets inside the text, content only."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.openai.chat import ChatFormatter
from router.openai.chat_prompt import ChatPrompt
from router.openai.completions import CompletionFormatter
from router.openai.parsing.call_values import Tools
from router.openai.parsing.content_tokens import ContentTokens
from router.openai.parsing.harmony import HarmonyParser
from router.openai.parsing.output import (
    REASONING_TAGS,
    DelegatingOutputParser,
    OutputParser,
    ReasoningSplitter,
)
from router.openai.parsing.tool_call_formats import FORMATS
from router.openai.parsing.tool_calls import ForcedCall, KnownTools, NoToolCalls, StreamedCalls
from router.openai.request_models import ChatRequest, CompletionRequest
from router.openai.shape import ResponseHeader
from router.openai.text_offsets import text_offsets
from router.requests.record import LiveRequest
from router.requests.request import Request
from router.text.tokenizer import Tokenizer
from shard.wire.protocol import End, RowResult, Sampling, TopTokens
from tests.support.families import EOS, FAMILIES
from tests.support.paths import ROOT
from tests.support.serving import SERVER_INFO

TOKENIZERS = {
    **{name: Tokenizer(tokenizer) for name, tokenizer in FAMILIES.items()},
    "demo": Tokenizer.load(str(ROOT / "shard" / "demo" / "target")),
}
tokenizers = pytest.mark.parametrize("name", TOKENIZERS)
HEADER = ResponseHeader("r", 0, "m")
texts = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd▁"),
        st.sampled_from("the a.😀👩‍👩‍👧世界é\u0301\n "),
    ),
    max_size=30,
)


def live_request(
    name: str, prompt: str, ids: list[int], end: End = End.LENGTH, **more: Any
) -> LiveRequest:
    """A request that has ended with the tokens `ids`."""
    request = Request(prompt, Sampling(), hide_stops_and_specials=True, **more)
    tokenizer = TOKENIZERS[name]
    record = LiveRequest(1, "r", request, tokenizer.encode(prompt), len(ids), tokenizer, 0.0)
    prompt_logprobs = (-0.5,) * (len(record.prompt) - 1)
    result = RowResult(1, tuple(ids), (-0.25,) * len(ids), 0, 0, end)
    if request.decoder_input_details:
        result = replace(result, prompt_start=1, prompt_logprobs=prompt_logprobs)
    record.apply(result, 1.0)
    return record


def chat_choice(record: LiveRequest, new_parser: Any = None) -> tuple[dict[str, Any], list[Any]]:
    """The choice of a chat with log-probabilities, and the choices of its stream's chunks."""
    body = ChatRequest.model_validate(
        {"messages": [{"role": "user", "content": "a"}], "logprobs": True}
    )
    parser = new_parser or partial(DelegatingOutputParser, None, NoToolCalls())
    prompt = ChatPrompt("a", None, frozenset(), parser)
    formats = [ChatFormatter(body, prompt, [record], HEADER, SERVER_INFO) for _ in range(2)]
    [choice] = formats[0].full_response()["choices"]
    chunks = [
        chunk["choices"][0]
        for number in range(1, len(record.tokens) + 1)
        for chunk in formats[1].token_events(0, number)
    ]
    return choice, chunks


def content_bytes(choice: dict[str, Any]) -> bytes:
    entries = (choice["logprobs"] or {"content": []})["content"]
    return b"".join(bytes(entry["bytes"]) for entry in entries)


@tokenizers
@given(prompt=texts, text=texts.filter(bool))
@settings(max_examples=100, deadline=None)
def test_the_bytes_of_a_chats_tokens_are_those_of_its_content(
    name: str, prompt: str, text: str
) -> None:
    record = live_request(name, "a" + prompt, list(TOKENIZERS[name].encode(text)))
    choice, chunks = chat_choice(record)
    content = choice["message"]["content"]
    assert content_bytes(choice) == content.encode()
    assert b"".join(map(content_bytes, chunks)) == content.encode()
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == content


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("byte_level", "世", [b"\xe4\xb8", b"\x96"]),
        ("byte_level", "😀", [b"\xf0", b"\x9f\x98", b"\x80"]),
        ("byte_level", "é", [b"\xc3", b"\xa9"]),
        ("byte_level", " the", [b" ", b"th", b"e"]),
        ("sentencepiece_like", "世", [b" ", b"\xe4", b"\xb8", b"\x96"]),
        ("sentencepiece_like", "the a", [b" the", b" a"]),
        ("sentencepiece_like", "é", [b" ", b"\xc3", b"\xa9"]),
        ("sentencepiece_like", "😀", [b" ", b"\xf0", b"\x9f", b"\x98", b"\x80"]),
    ],
)
def test_a_part_of_a_character_has_its_own_bytes(
    name: str, text: str, expected: list[bytes]
) -> None:
    choice, _ = chat_choice(live_request(name, "a", list(TOKENIZERS[name].encode(text))))
    assert [bytes(entry["bytes"]) for entry in choice["logprobs"]["content"]] == expected


@tokenizers
def test_rivals_have_their_own_bytes_too(name: str) -> None:
    ids = list(TOKENIZERS[name].encode("世"))
    record = live_request(name, "a", ids, top_n_tokens=2)
    first, last = ids[0], ids[-1]
    rivals = TopTokens((last, first), (-0.25, -0.5))
    record.tokens[-1] = replace(record.tokens[-1], top=rivals)
    entry = chat_choice(record)[0]["logprobs"]["content"][-1]
    expected = [TOKENIZERS[name].token_bytes(id) for id in (last, first)]
    assert [bytes(rival["bytes"]) for rival in entry["top_logprobs"]] == expected


def test_neither_an_unfinished_character_nor_the_end_is_content() -> None:
    tokenizer = FAMILIES["byte_level"]
    ids = [*tokenizer.encode("a世").ids[:-1], *tokenizer.encode(EOS).ids]
    choice, chunks = chat_choice(live_request("byte_level", "a", ids, End.EOS))
    assert choice["message"]["content"] == "a"
    assert content_bytes(choice) == b"a"
    assert [chunk["logprobs"] is None for chunk in chunks] == [False, True, True]


def test_a_stop_string_is_not_content_and_text_held_for_one_is() -> None:
    ids = list(FAMILIES["byte_level"].encode("abcabx").ids)
    choice, _ = chat_choice(live_request("byte_level", "a", ids, stop=("abx",)))
    assert (choice["message"]["content"], content_bytes(choice)) == ("abc", b"abc")
    ids = [*FAMILIES["byte_level"].encode("xab").ids, *FAMILIES["byte_level"].encode(EOS).ids]
    choice, _ = chat_choice(live_request("byte_level", "a", ids, End.EOS, stop=("abx",)))
    assert (choice["message"]["content"], content_bytes(choice)) == ("xab", b"xab")


TOOLS: Tools = {"f": {"type": "object"}}
CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
PARTS = st.sampled_from(
    [
        *("Hi", " there.", "\n", "<", "<tool_call>", "</tool_call>", "世", "{", "a<b"),
        *(CALL, '<tool_call>{"name": "g", "arguments": {}}</tool_call>'),
    ]
)


def hermes(reasoning: bool) -> OutputParser:
    splitter = ReasoningSplitter(REASONING_TAGS[0], in_reasoning=False) if reasoning else None
    return DelegatingOutputParser(splitter, StreamedCalls(FORMATS["hermes"], TOOLS))


def split_by_content(
    parser: OutputParser, pieces: list[str]
) -> tuple[str, list[int], list[tuple[str, list[int]]]]:
    """The content, the numbers of its tokens, and both for each piece."""
    tokens, parts = ContentTokens(parser), list[tuple[str, list[int]]]()
    for index, piece in enumerate(pieces):
        delta, numbers = tokens.push(piece, last=index + 1 == len(pieces), hidden=False)
        parts.append((delta.content, numbers))
    numbers = [number for _, part in parts for number in part]
    return "".join(content for content, _ in parts), numbers, parts


@given(parts=st.lists(PARTS, min_size=1, max_size=8), thinks=st.booleans())
@settings(max_examples=150, deadline=None)
def test_tokens_of_one_character_are_content_exactly_where_the_parser_says_so(
    parts: list[str], thinks: bool
) -> None:
    text = ("<think>\nso it <is</think>\n\n" if thinks else "") + "".join(parts)
    content, numbers, each = split_by_content(hermes(thinks), list(text))
    assert "".join(text[number - 1] for number in numbers) == content
    assert numbers == sorted(set(numbers))
    assert all(bool(content) == bool(part) for content, part in each)


@given(
    parts=st.lists(PARTS, min_size=1, max_size=8),
    thinks=st.booleans(),
    cuts=st.lists(st.integers(1, 9), min_size=100, max_size=100),
)
@settings(max_examples=150, deadline=None)
def test_a_token_is_content_if_one_of_its_characters_is(
    parts: list[str], thinks: bool, cuts: list[int]
) -> None:
    text = ("<think>\nso it <is</think>\n\n" if thinks else "") + "".join(parts)
    pieces, rest = [], text
    for size in cuts:
        pieces.append(rest[:size])
        rest = rest[size:]
    pieces = [piece for piece in [*pieces, rest] if piece]
    _, numbers, _ = split_by_content(hermes(thinks), pieces)
    _, characters, _ = split_by_content(hermes(thinks), list(text))
    start = 1
    for number, piece in enumerate(pieces, 1):
        of_piece = set(range(start, start + len(piece)))
        if piece.strip():
            assert (number in numbers) == bool(of_piece & set(characters))
        start += len(piece)


@pytest.mark.parametrize("thinks", [False, True])
def test_a_call_and_reasoning_have_no_log_probabilities(thinks: bool) -> None:
    text = ("<think>why</think>" if thinks else "") + "Sure." + CALL
    record = live_request("byte_level", "a", list(FAMILIES["byte_level"].encode(text).ids))
    choice, chunks = chat_choice(record, partial(hermes, thinks))
    assert choice["message"]["tool_calls"]
    assert (choice["message"]["content"], content_bytes(choice)) == ("Sure.", b"Sure.")
    assert all(
        (chunk["logprobs"] is not None) == bool(chunk["delta"].get("content")) for chunk in chunks
    )


def test_a_call_alone_has_none_at_all() -> None:
    record = live_request("byte_level", "a", list(FAMILIES["byte_level"].encode(CALL).ids))
    choice, chunks = chat_choice(record, partial(hermes, False))
    assert choice["logprobs"] is None
    assert {chunk["logprobs"] for chunk in chunks} == {None}


def test_a_call_that_turns_out_to_be_none_is_content_with_its_log_probabilities() -> None:
    text = CALL.replace('"f"', '"unknown"')
    record = live_request("byte_level", "a", list(FAMILIES["byte_level"].encode(text).ids))
    choice, _ = chat_choice(record, partial(hermes, False))
    assert (choice["message"]["content"], content_bytes(choice)) == (text, text.encode())


def test_a_forced_call_has_none_and_what_is_not_one_has() -> None:
    prefix = '{"name": "f", "arguments": '

    def forced() -> OutputParser:
        return DelegatingOutputParser(None, ForcedCall({prefix: "f"}))

    for text, content in ((prefix + "{}}", None), ("oops", "oops")):
        record = live_request("byte_level", "a", list(FAMILIES["byte_level"].encode(text).ids))
        choice, _ = chat_choice(record, forced)
        assert choice["message"]["content"] == content
        assert content_bytes(choice) == (content or "").encode()


def test_of_the_channels_of_harmony_only_the_final_ones_are_content() -> None:
    text = (
        "<|channel|>analysis<|message|>why<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Yes<|end|>"
        "<|start|>assistant<|channel|>commentary to=functions.f<|message|>{}<|call|>"
    )
    parser = HarmonyParser(KnownTools(TOOLS, None), "<|start|>assistant")
    content, numbers, _ = split_by_content(parser, list(text))
    assert content == "Yes"
    assert "".join(text[number - 1] for number in numbers) == "Yes"


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_how_much_it_holds_back(name: str) -> None:
    parser = DelegatingOutputParser(None, StreamedCalls(FORMATS[name], TOOLS))
    text = f"Well, {' and '.join(FORMATS[name].readers)} no call"
    content, numbers, _ = split_by_content(parser, list(text))
    assert content == text
    assert numbers == list(range(1, len(text) + 1))
    assert parser.held_length == 0


def completion(record: LiveRequest, **more: Any) -> dict[str, Any]:
    body = CompletionRequest(prompt=record.request.inputs, **{"logprobs": 0, **more})
    formatter = CompletionFormatter(body, [record], HEADER, SERVER_INFO)
    choice: dict[str, Any] = formatter.full_response()["choices"][0]
    return choice


@tokenizers
@pytest.mark.parametrize("echo", [False, True])
@given(prompt=texts.filter(bool), text=texts.filter(bool))
@settings(max_examples=150, deadline=None)
def test_offsets_are_inside_the_text_and_never_decrease(
    name: str, echo: bool, prompt: str, text: str
) -> None:
    ids = list(TOKENIZERS[name].encode(text))
    record = live_request(name, prompt, ids, decoder_input_details=echo)
    choice = completion(record, echo=echo)
    offsets = choice["logprobs"]["text_offset"]
    assert len(offsets) == len(ids) + (len(record.prompt) if echo else 0)
    assert offsets[0] == 0
    assert all(left <= right for left, right in pairwise(offsets))
    assert offsets[-1] <= len(choice["text"])
    if echo:
        assert offsets[len(record.prompt)] == len(prompt)


@pytest.mark.parametrize("name", ["byte_level", "demo"])
@given(text=texts.filter(bool))
@settings(max_examples=150, deadline=None)
def test_an_echoed_token_begins_where_its_bytes_do(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)
    offsets = text_offsets(text, [(tokenizer.token_bytes(id), False) for id in ids])
    position = 0
    for id, offset in zip(ids, offsets, strict=True):
        begun = text.encode()[:position].decode(errors="ignore")
        assert offset == len(begun)
        position += len(tokenizer.token_bytes(id))


@pytest.mark.parametrize(
    ("text", "tokens", "expected"),
    [
        ("世a", [(b"\xe4\xb8", False), (b"\x96", False), (b"a", False)], [0, 0, 1]),
        ("ab", [(b"<s>", True), (b"a", False), (b"b", False)], [0, 0, 1]),
        ("<s>ab", [(b"<s>", True), (b"a", False), (b"b", False)], [0, 3, 4]),
        ("the a", [(b" the", False), (b" a", False)], [0, 3]),
        ("  a b", [(b"a", False), (b" b", False)], [0, 3]),
        ("A b", [(b"a", False), (b" b", False)], [0, 1]),
        ("a", [(b"a", False), (b"bcd", False), (b"e", False)], [0, 1, 1]),
        ("", [(b"<s>", True)], [0]),
        ("é", [(b"\xc3", False), (b"\xa9", False), (b"</s>", True)], [0, 0, 1]),
    ],
)
def test_offsets_follow_the_text_where_tokens_differ_from_it(
    text: str, tokens: list[tuple[bytes, bool]], expected: list[int]
) -> None:
    assert text_offsets(text, tokens) == expected


def test_the_columns_of_a_stream_are_those_of_the_response() -> None:
    record = live_request("demo", "Say 世", list(TOKENIZERS["demo"].encode("é世")))
    body = CompletionRequest(prompt="Say 世", logprobs=0, echo=True)
    formatter = CompletionFormatter(body, [record], HEADER, SERVER_INFO)
    events = [
        event["choices"][0]["logprobs"]
        for number in range(1, len(record.tokens) + 1)
        for event in formatter.token_events(0, number)
    ]
    whole = completion(record, echo=True)["logprobs"]
    joined = {name: [value for event in events for value in event[name]] for name in whole}
    assert joined == whole
    assert json.dumps(whole)
