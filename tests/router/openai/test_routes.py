"""OpenAI's routes over HTTP, with a dispatcher that follows a script."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import pytest

from router.config import Limits
from router.errors import GenerationFailed, ValidationError
from router.openai import completions
from router.openai.request_models import CompletionRequest
from router.openai.unsupported_fields import (
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    RESPONSES_FIELDS,
    UnsupportedField,
)
from router.requests.request import Request, fit_to_context, resolve_limits
from shard.wire.protocol import TopTokens
from tests.support.paths import ROOT
from tests.support.serving import (
    BOUNDS,
    DRAFTING_SERVER_INFO,
    MODEL,
    RunningServer,
    ScriptedDispatcher,
    Token,
    serving,
)
from tests.support.shared_workers import VOCAB_SIZE

CHAT = {"messages": [{"role": "user", "content": "Say"}]}
PLAIN = {"prompt": "Say"}
CHATS, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
BODIES: dict[str, dict[str, Any]] = {CHATS: CHAT, COMPLETIONS: PLAIN, RESPONSES: {"input": "Say"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
PROMPT = "<|user|>Say<|assistant|>"
REQUEST_ID_HEADER = {"x-request-id": "r1"}
TEXT = " Hello «世»"


def usage(prompt: int, cached: int, completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


async def stream_events(
    server: RunningServer, path: str, body: dict[str, Any]
) -> list[dict[str, Any]]:
    """The JSON of a stream, which has to end with DONE unless it is a response's."""
    answer = await server.post(path, {**body, "stream": True}, headers=REQUEST_ID_HEADER)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *lines, rest = answer.body.split(b"\n\n")
    assert rest == b""
    if path == "/v1/responses":
        return [named_event(line) for line in lines]
    assert lines.pop() == b"data: [DONE]"
    assert all(line.startswith(b"data: {") for line in lines)
    return [json.loads(line[6:]) for line in lines]


def named_event(text: bytes) -> dict[str, Any]:
    """The JSON of an event whose `event:` line is its `type`."""
    name, _, data = text.partition(b"\n")
    event: dict[str, Any] = json.loads(data.removeprefix(b"data: "))
    assert name == b"event: " + event["type"].encode()
    return event


async def test_a_chat_is_answered_in_openais_shape() -> None:
    async with serving() as server:
        answer = await server.post(
            "/v1/chat/completions", {**CHAT, "max_tokens": 7}, headers=REQUEST_ID_HEADER
        )
        [(request, _)] = server.dispatcher.opened
    told = answer.json()
    assert list(told) == "object id created model system_fingerprint choices usage".split()  # noqa: SIM905
    assert (told["object"], told["id"]) == ("chat.completion", "chatcmpl-r1")
    assert told["model"] == "bigscience/bloom-560m"
    assert re.fullmatch(r"\d+\.\d+\.\d+-native", told["system_fingerprint"])
    assert told["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": TEXT},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert told["usage"] == usage(3, 2, 3)
    assert (request.inputs, request.max_new_tokens) == (PROMPT, 7)
    assert not request.add_special_tokens
    assert answer.headers["x-prompt-tokens"] == "3"


async def test_a_chat_streams_one_chunk_for_each_token_and_the_role_once() -> None:
    async with serving() as server:
        options = {"stream_options": {"include_usage": True}, "model": "mine"}
        *chunks, last = await stream_events(server, "/v1/chat/completions", {**CHAT, **options})
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": " Hello"},
        {"content": " «世»"},
        {"content": ""},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-r1"}
    assert {chunk["model"] for chunk in chunks} == {"mine"}
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 6


async def test_usage_runs_along_where_it_is_asked_for() -> None:
    async with serving() as server:
        options = {"stream_options": {"continuous_usage_stats": True}}
        for path in ("/v1/chat/completions", "/v1/completions"):
            chunks = await stream_events(server, path, {**BODIES[path], **options})
            assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3]


async def test_without_usage_nothing_follows_the_last_token() -> None:
    async with serving() as server:
        choices: tuple[dict[str, Any], ...] = (
            {},
            {"stream_options": None},
            {"stream_options": {}},
        )
        for options in choices:
            assert len(await stream_events(server, "/v1/completions", {**PLAIN, **options})) == 3


async def test_a_completion_is_answered_in_openais_shape() -> None:
    async with serving() as server:
        answer = await server.post(
            "/v1/completions", {**PLAIN, "model": "x"}, headers=REQUEST_ID_HEADER
        )
        told = answer.json()
    assert (told["object"], told["id"]) == ("text_completion", "cmpl-r1")
    assert told["model"] == "bigscience/bloom-560m"
    assert told["choices"] == [
        {"index": 0, "text": TEXT, "logprobs": None, "finish_reason": "stop"}
    ]
    assert "x-compute-time" not in answer.headers


async def test_prompts_may_be_token_ids() -> None:
    async with serving(ScriptedDispatcher(heads=((), ()))) as server:
        body = {"prompt": [[65, 66], [67]], "max_tokens": 2}
        told = (await server.post("/v1/completions", body)).json()
        first, second = (request for request, _ in server.dispatcher.opened)
    assert (first.prompt_token_ids, second.prompt_token_ids) == ((65, 66), (67,))
    assert [choice["index"] for choice in told["choices"]] == [0, 1]
    assert told["usage"] == usage(6, 4, 6)


async def test_choices_differ_in_their_seeds_and_share_their_prompt() -> None:
    async with serving(ScriptedDispatcher(heads=((), ()))) as server:
        body = {**CHAT, "n": 2, "seed": -1}
        told = (await server.post("/v1/chat/completions", body)).json()
        first, second = (request for request, _ in server.dispatcher.opened)
    assert first.sampling.seed == 2**64 - 1
    assert second.sampling.seed != first.sampling.seed
    assert told["usage"] == usage(3, 2, 6)


async def test_streams_of_several_choices_are_told_apart() -> None:
    async with serving(ScriptedDispatcher(heads=((), (Token(9, "A", -1.0),)))) as server:
        body = {**PLAIN, "n": 2, "stream_options": {"include_usage": True}}
        *chunks, last = await stream_events(server, "/v1/completions", body)
    texts = ["", ""]
    for chunk in chunks:
        [choice] = chunk["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == [TEXT, "A" + TEXT]
    assert last["usage"] == usage(3, 2, 7)


async def test_the_origin_of_a_token_is_reported_with_its_log_probability_on_request() -> None:
    script = (
        Token(15, " Hello", -0.25, drafted=True),
        Token(16, " a", -0.5, rejected=2),
    )
    async with serving(ScriptedDispatcher(*script)) as server:
        body = {**CHAT, "logprobs": True}
        chunks = await stream_events(
            server, "/v1/chat/completions", {**body, "draft_details": True}
        )
        plain = (await server.post("/v1/chat/completions", body)).body
    entries = [chunk["choices"][0]["logprobs"]["content"][0] for chunk in chunks[:2]]
    assert [(each["drafted"], each["rejected"]) for each in entries] == [(True, 0), (False, 2)]
    assert b"drafted" not in plain


async def test_log_probabilities_of_a_chat() -> None:
    rivals = TopTokens((15, 16), (-0.25, -2.0))
    script = (Token(15, " Hello", -0.25, top=rivals), Token(2, "</s>", -1.5, True, rivals))
    async with serving(ScriptedDispatcher(*script)) as server:
        body = {**CHAT, "logprobs": True, "top_logprobs": 2}
        told = (await server.post("/v1/chat/completions", body)).json()
        chunks = await stream_events(server, "/v1/chat/completions", body)
        request, _ = server.dispatcher.opened[0]
    [first] = told["choices"][0]["logprobs"]["content"]
    assert first["token"] == " Hello"
    assert first["bytes"] == list(b" Hello")
    assert [(top["token"], top["logprob"]) for top in first["top_logprobs"]] == [
        (" Hello", -0.25),
        (" «世»", -2.0),
    ]
    told_each = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert told_each == [{"content": [first]}, None]  # the end is not part of the content
    assert (request.report.raw_logprobs, request.report.top_n) == (True, 2)


async def test_echo_tells_the_prompt_and_its_log_probabilities() -> None:
    script = (Token(15, " Hello", -0.25, top=TopTokens((16,), (-0.125,))),)
    async with serving(ScriptedDispatcher(*script, ending="length")) as server:
        body = {**PLAIN, "echo": True, "logprobs": 1, "max_tokens": 1}
        [choice] = (await server.post("/v1/completions", body)).json()["choices"]
        [chunk] = await stream_events(server, "/v1/completions", body)
        request, _ = server.dispatcher.opened[0]
    assert choice["text"] == "Say Hello"
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] == {
        "tokens": ["a", "b", " Hello"],
        "token_logprobs": [None, -0.5, -0.25],
        "top_logprobs": [None, {"b": -0.5}, {" Hello": -0.25, " «世»": -0.125}],
        "text_offset": [0, 1, 3],
    }
    assert chunk["choices"] == [choice]
    assert request.report.prompt_logprobs


async def test_no_token_is_wanted_with_echo_alone() -> None:
    async with serving(ScriptedDispatcher(Token(15, " Hello", -0.25))) as server:
        body = {**PLAIN, "echo": True, "max_tokens": 0}
        told = (await server.post("/v1/completions", body)).json()
        assert told["choices"][0]["text"] == "Say"
        assert told["choices"][0]["finish_reason"] == "length"
        assert told["usage"]["completion_tokens"] == 0
        refused = await server.post("/v1/completions", {**PLAIN, "max_tokens": 0})
        assert refused.status == 422


async def test_speculation_is_told_exactly_where_there_is_a_drafter() -> None:
    async with serving(server_info=DRAFTING_SERVER_INFO) as server:
        for path in ("/v1/chat/completions", "/v1/completions"):
            told = (await server.post(path, BODIES[path])).json()
            assert told["metrics"]["speculative_decoding"] == {
                "num_spec_steps": 2,
                "num_draft_tokens": 4,
                "num_accepted_draft_tokens": 2,
                "num_spec_tokens": 2,
                "draft_acceptance_rate": 0.5,
                "mean_acceptance_length": 2.0,
                "acceptance_histogram": [1, 0, 1],
            }


@pytest.mark.parametrize("path", BODIES)
async def test_an_error_before_the_first_byte_has_its_status_also_for_a_stream(path: str) -> None:
    async with serving(ScriptedDispatcher(full=True)) as server:
        for stream in (False, True):
            answer = await server.post(path, {**BODIES[path], "stream": stream})
            assert answer.status == 429
            assert answer.json() == {
                "error": {
                    "message": "Model is overloaded",
                    "type": "rate_limit_error",
                    "code": "overloaded",
                },
                "error_type": "overloaded",
            }


@pytest.mark.parametrize("path", BODIES)
async def test_an_error_in_a_stream_has_its_true_status_and_done_follows(path: str) -> None:
    script = ScriptedDispatcher(Token(1, "a", -1.0), GenerationFailed("no usable result"))
    async with serving(script) as server:
        *_, last = await stream_events(server, path, BODIES[path])
    assert last["error"]["http_status_code"] == 424
    assert last["error"]["code"] == last["error_type"] == "generation"
    assert last["error"]["message"].endswith("no usable result")


@pytest.mark.parametrize("path", BODIES)
async def test_a_stream_that_just_ends_is_incomplete(path: str) -> None:
    async with serving(ScriptedDispatcher(Token(1, "a", -1.0), ending=None)) as server:
        *_, last = await stream_events(server, path, BODIES[path])
        assert last["error"]["code"] == "incomplete_generation_stream"
        assert (await server.post(path, BODIES[path])).status == 500


@pytest.mark.parametrize(
    ("body", "status", "code", "text"),
    [
        ({"temperature": -0.1}, 422, "validation", "`temperature` must be strictly positive"),
        ({"repetition_penalty": 0}, 422, "validation", "`repetition_penalty` must be strictly"),
        ({"frequency_penalty": 2.1}, 422, "validation", "`frequency_penalty` must be >= -2.0"),
        ({"presence_penalty": -2.1}, 422, "validation", "`presence_penalty` must be >= -2.0"),
        ({"top_p": 0}, 422, "validation", "`top_p` must be > 0.0 and <= 1.0"),
        ({"top_p": 1.1}, 422, "validation", "`top_p` must be > 0.0 and <= 1.0"),
        ({"top_k": -2}, 422, "validation", "`top_k` must be strictly positive"),
        ({"min_p": 1.5}, 422, "validation", "`min_p` must be >= 0.0 and <= 1.0"),
        ({"max_tokens": 0}, 422, "validation", "`max_tokens` must be strictly positive"),
        (
            {"max_completion_tokens": 0, "max_tokens": 5},
            *(422, "validation", "`max_completion_tokens` must be strictly positive"),
        ),
        ({"stop": ["a"] * 5}, 422, "validation", "supports up to 4 stop sequences. Given: 5"),
        ({"stop": ""}, 422, "validation", "`stop` sequences must be 1 to 1000 characters long"),
        (
            {"top_logprobs": 21, "logprobs": True},
            422,
            "validation",
            "`top_logprobs` must be >= 0 and <= 20. Given: 21",
        ),
        ({"top_logprobs": 1}, 422, "validation", "`top_logprobs` needs `logprobs`"),
        ({"n": 3}, 422, "validation", "`n` must be > 0 and <= 2. Given: 3"),
        ({"n": 0}, 422, "validation", "`n` must be > 0 and <= 2. Given: 0"),
        ({"speculate": 65}, 422, "validation", "`speculate` must be >= 0 and <= 64. Given: 65"),
        ({"logit_bias": {"4096": 1}}, 422, "validation", "`logit_bias` has no token for `4096`"),
        ({"logit_bias": {"x": 1}}, 422, "validation", "`logit_bias` has no token for `x`"),
        ({"logit_bias": {"5": 101}}, 422, "validation", "values must be >= -100.0 and <= 100.0"),
        ({"seed": 2**64}, 422, "validation", "seed"),
        ({"messages": []}, 422, "validation", "messages"),
        ({"messages": [{"content": "a"}]}, 422, "validation", "messages.0.role"),
        ({"temperature": "1"}, 422, "validation", "temperature"),
        ({"response_format": {"type": "xml"}}, 422, "validation", "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, 422, "validation", "must be an object"),
        ({"tools": [TOOL], "tool_choice": "g"}, 422, "tool_error", "Tool with name g not found"),
        ({"tool_choice": "required"}, 422, "tool_error", "`tool_choice` needs `tools`"),
        (
            {"tools": [TOOL], "response_format": {"type": "json_object"}},
            *(422, "tool_error", "Tool error: Grammar and tools are mutually exclusive"),
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            *(422, "validation", "image modality is not supported"),
        ),
    ],
    ids=str,
)
async def test_what_a_chat_may_not_ask(
    body: dict[str, Any], status: int, code: str, text: str
) -> None:
    async with serving() as server:
        answer = await server.post("/v1/chat/completions", {**CHAT, **body})
        assert answer.status == status
        assert answer.json()["error"]["code"] == answer.json()["error_type"] == code
        assert text in answer.json()["error"]["message"]
        assert server.dispatcher.opened == []


@pytest.mark.parametrize(
    ("body", "code", "text"),
    [
        ({"prompt": []}, "validation", "Empty array detected. Do not use an empty array for"),
        ({"prompt": [[]]}, "validation", "Empty array detected."),
        ({"prompt": ""}, "validation", "`prompt` cannot be empty"),
        ({"prompt": ["a"] * 5}, "batch size exceeded", "the maximum allowed batch size of 4"),
        ({"prompt": [4096]}, "validation", "token ids must be below 4096. Given: 4096"),
        ({"prompt": [-1]}, "validation", "prompt"),
        ({"prompt": [1, "a"]}, "validation", "prompt"),
        ({"prompt": ["a", [1]]}, "validation", "prompt"),
        ({"prompt": None}, "validation", "prompt"),
        ({"suffix": "x"}, "suffix not supported", "Suffix is not supported and can be achieved"),
        ({"best_of": 2}, "validation", "`best_of` must be 1 or `n`"),
        ({"logprobs": 6}, "validation", "`logprobs` must be >= 0 and <= 5. Given: 6"),
        ({"n": 3}, "validation", "`n` must be > 0 and <= 2. Given: 3"),
    ],
    ids=str,
)
async def test_what_a_completion_may_not_ask(body: dict[str, Any], code: str, text: str) -> None:
    async with serving() as server:
        answer = await server.post("/v1/completions", {**PLAIN, **body})
        assert (answer.status, answer.json()["error"]["code"]) == (422, code)
        assert text in answer.json()["error"]["message"]


async def test_nulls_and_unknown_fields_are_as_good_as_absent() -> None:
    nulls = dict.fromkeys(
        (
            *("model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k"),
            *("frequency_penalty", "presence_penalty", "logit_bias", "n", "stop", "seed", "stream"),
            *("stream_options", "logprobs", "top_logprobs", "response_format", "tools", "user"),
            *("tool_choice", "tool_prompt", "chat_template_kwargs", "speculate", "min_p", "echo"),
            *("suffix", "best_of", "parallel_tool_calls", "reasoning_effort", "ignore_eos"),
        )
    )
    async with serving() as server:
        for path in ("/v1/chat/completions", "/v1/completions"):
            answer = await server.post(path, {**BODIES[path], **nulls, "unknown": {"x": [None]}})
            assert answer.status == 200


async def test_what_openai_sends_means_what_it_means_there() -> None:
    async with serving() as server:
        body = {
            **CHAT,
            "temperature": 0.5,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.25,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
            "logit_bias": {"5": -100, "7": 1.5},
            "stop": "END",
            "seed": 3,
            "ignore_eos": True,
            "min_tokens": 2,
            "user": "me",
        }
        await server.post("/v1/chat/completions", body)
        await server.post("/v1/chat/completions", {**CHAT, "temperature": 0})
        await server.post("/v1/chat/completions", {**CHAT, "max_completion_tokens": 9})
        (given, _), (greedy, _), (default, _) = server.dispatcher.opened
    sampling = given.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.5, 1.0, 0, 3)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert [(bias.token, bias.value) for bias in sampling.bias] == [(5, -100.0), (7, 1.5)]
    assert (sampling.min_p, sampling.min_new_tokens) == (0.25, 2)
    assert (given.stop, given.hide_stops_and_specials, given.ignore_eos, given.user) == (
        ("END",),
        True,
        True,
        "me",
    )
    assert greedy.sampling.temperature == 0
    assert default.sampling.temperature == 1.0
    assert default.max_new_tokens == 9


async def test_max_completion_tokens_overrides_max_tokens() -> None:
    limits: list[dict[str, int | None]] = [
        {"max_tokens": 3, "max_completion_tokens": 9},
        {"max_completion_tokens": 9, "max_tokens": 3},
        {"max_completion_tokens": None, "max_tokens": 9},
        {"max_tokens": 9},
        {"max_completion_tokens": 9, "max_tokens": 0},
    ]
    async with serving() as server:
        for path, limit in ((path, limit) for path in (CHATS, COMPLETIONS) for limit in limits):
            assert (await server.post(path, {**BODIES[path], **limit})).status == 200
        assert {request.max_new_tokens for request, _ in server.dispatcher.opened} == {9}


async def test_a_chat_may_ask_for_twenty_top_logprobs() -> None:
    async with serving() as server:
        body = {**CHAT, "logprobs": True, "top_logprobs": 20}
        assert (await server.post(CHATS, body)).status == 200
        [(request, _)] = server.dispatcher.opened
    assert request.report.top_n == 20


@pytest.mark.parametrize(
    ("more", "budget"),
    [
        ({}, 16),
        ({"max_tokens": None}, 16),
        ({"max_completion_tokens": None}, 16),
        ({"echo": True}, 16),
        ({"logprobs": 2}, 16),
        ({"prompt": [65, 66]}, 16),
        ({"prompt": ["Say"]}, 16),
        ({"max_tokens": 100}, 100),
        ({"max_completion_tokens": 100}, 100),
        ({"max_tokens": None, "max_completion_tokens": 17}, 17),
    ],
    ids=str,
)
async def test_a_completion_without_a_limit_has_at_most_sixteen_tokens(
    more: dict[str, Any], budget: int
) -> None:
    async with serving() as server:
        assert (await server.post(COMPLETIONS, {**PLAIN, **more})).status == 200
        [(request, _)] = server.dispatcher.opened
    assert fit_to_context(request, range(10), BOUNDS)[1] == budget


async def test_a_chat_without_a_limit_may_fill_the_context() -> None:
    async with serving() as server:
        assert (await server.post(CHATS, CHAT)).status == 200
        [(request, _)] = server.dispatcher.opened
    assert fit_to_context(request, range(10), BOUNDS)[1] == BOUNDS.max_total_tokens - 10


def test_the_default_of_completions_is_reduced_to_the_room_in_the_context() -> None:
    body = CompletionRequest(prompt="Say")
    [request] = completions.build_requests(body, BOUNDS, VOCAB_SIZE, lambda ids: "")
    used = BOUNDS.max_total_tokens - 5
    assert fit_to_context(request, range(used), BOUNDS)[1] == 5


def prompt_only(body: dict[str, Any]) -> Request:
    [request] = completions.build_requests(
        CompletionRequest(**body), BOUNDS, VOCAB_SIZE, lambda ids: "text"
    )
    return request


@pytest.mark.parametrize("logprobs", [None, 0, 5])
@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_an_echo_alone_may_fill_the_whole_context(limit: str, logprobs: int | None) -> None:
    request = prompt_only({**PLAIN, "echo": True, limit: 0, "logprobs": logprobs})
    assert fit_to_context(request, range(BOUNDS.max_total_tokens), BOUNDS)[1] == 1
    with pytest.raises(ValidationError, match=r"must be <= 2000\. Given: 2001 `inputs`"):
        fit_to_context(request, range(BOUNDS.max_total_tokens + 1), BOUNDS)


def test_an_echo_alone_keeps_to_the_operators_limit_of_prompts() -> None:
    request = prompt_only({**PLAIN, "echo": True, "max_tokens": 0})
    bounds = resolve_limits(Limits(max_input_tokens=100), 2000)
    assert fit_to_context(request, range(100), bounds)[1] == 1
    with pytest.raises(ValidationError, match=r"must have less than 100 tokens\. Given: 101"):
        fit_to_context(request, range(101), bounds)


@pytest.mark.parametrize("body", [{"echo": True}, {"max_tokens": 1}, {"echo": True, "n": 1}])
def test_a_completion_needs_room_for_a_token(body: dict[str, Any]) -> None:
    request = prompt_only({**PLAIN, **body})
    with pytest.raises(ValidationError):
        fit_to_context(request, range(BOUNDS.max_total_tokens), BOUNDS)


UNSUPPORTED: dict[str, tuple[Mapping[str, UnsupportedField], dict[str, Any]]] = {
    CHATS: (
        CHAT_FIELDS,
        {
            "functions": [{"name": "f"}],
            "function_call": {"name": "f"},
            "modalities": ["text", "audio"],
            "audio": {"voice": "x"},
            "guided_json": {"type": "object"},
            "guided_choice": ["a", "b"],
            "structured_outputs": {"regex": "a"},
            "grammar": "root ::= a",
            "stop_token_ids": [2],
            "skip_special_tokens": False,
            "best_of": 2,
            "length_penalty": 0.5,
        },
    ),
    COMPLETIONS: (
        COMPLETION_FIELDS,
        {
            "response_format": {"type": "json_object"},
            "guided_regex": "a",
            "add_special_tokens": False,
        },
    ),
    RESPONSES: (
        RESPONSES_FIELDS,
        {
            "conversation": {"id": "c"},
            "prompt": {"id": "p"},
            "truncation": "auto",
            "modalities": ["audio"],
        },
    ),
}


@pytest.mark.parametrize("path", UNSUPPORTED)
async def test_a_field_that_would_change_the_meaning_is_honored_or_refused_by_name(
    path: str,
) -> None:
    fields, examples = UNSUPPORTED[path]
    async with serving() as server:
        for name in fields:
            body = {**BODIES[path], name: examples.get(name, "something")}
            answer = await server.post(path, body)
            assert answer.status == 422
            assert f"`{name}` is not supported" in answer.json()["error"]["message"]
        assert server.dispatcher.opened == []


@pytest.mark.parametrize("path", UNSUPPORTED)
async def test_an_unsupported_field_that_changes_nothing_is_accepted(path: str) -> None:
    fields, _ = UNSUPPORTED[path]
    async with serving() as server:
        for name, field in fields.items():
            for value in (None, *field.neutral):
                answer = await server.post(path, {**BODIES[path], name: value})
                assert (name, value, answer.status) == (name, value, 200)


def test_the_documentation_lists_every_unsupported_field() -> None:
    text = (ROOT / "docs" / "openai.md").read_text()
    listed = set(re.findall(r"`(\w+)`", text.partition("## Fields that are refused")[2]))
    assert {name for fields, _ in UNSUPPORTED.values() for name in fields} <= listed


SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}


@pytest.mark.parametrize(
    "format",
    [
        {"type": "json_object", "schema": SCHEMA},
        {"type": "json_object", "value": SCHEMA},
        {"type": "json_object", "json_schema": {"schema": SCHEMA}},
        {"type": "json_schema", "schema": SCHEMA},
        {"type": "json_schema", "name": "x", "schema": SCHEMA, "strict": True},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
        {"type": "json", "schema": SCHEMA},
    ],
    ids=str,
)
async def test_a_schema_binds_the_output_in_whichever_place_it_is_written(
    format: dict[str, Any],
) -> None:
    native = {"inputs": "a", "parameters": {"grammar": {"type": "json", "value": SCHEMA}}}
    async with serving() as server:
        await server.post("/generate", native)
        await server.post(CHATS, {**CHAT, "response_format": format})
        expected, *grammars = (request.grammar for request, _ in server.dispatcher.opened)
    assert grammars == [expected]
    assert expected is not None


async def test_a_schema_of_a_json_object_binds_a_response() -> None:
    async with serving() as server:
        for kind in ("json_object", "json_schema"):
            text = {"format": {"type": kind, "name": "x", "schema": SCHEMA}}
            assert (await server.post(RESPONSES, {"input": "Say", "text": text})).status == 200
        await server.post(CHATS, {**CHAT, "response_format": {"type": "json", "value": SCHEMA}})
        first, second, third = (request.grammar for request, _ in server.dispatcher.opened)
    assert first == second == third


async def test_a_faulty_grammar_never_reaches_the_engine() -> None:
    async with serving() as server:
        schema = {"name": "x", "schema": {"type": "nonsense"}}
        for format in (
            {"type": "json_schema", "json_schema": schema},
            {"type": "json", "value": {"type": 5}},
            {"type": "regex", "value": "(?=a)b"},
        ):
            answer = await server.post("/v1/chat/completions", {**CHAT, "response_format": format})
            assert answer.status == 422
        native = {"inputs": "a", "parameters": {"grammar": {"type": "lark", "value": "nonsense"}}}
        assert (await server.post("/generate", native)).status == 422
        assert (await server.post("/generate_stream", native)).status == 422
        assert server.dispatcher.opened == []


async def test_a_grammar_reaches_the_engine_compiled() -> None:
    async with serving() as server:
        format = {"type": "regex", "value": "[ab]+"}
        await server.post("/v1/chat/completions", {**CHAT, "response_format": format})
        grammar = {"type": "regex", "value": "[ab]+"}
        await server.post("/generate", {"inputs": "a", "parameters": {"grammar": grammar}})
        first, second = (request for request, _ in server.dispatcher.opened)
    assert first.grammar == second.grammar
    assert "[ab]+" in (first.grammar or "")


async def test_tools_that_the_template_does_not_know_are_told_in_the_last_message() -> None:
    async with serving() as server:
        body = {**CHAT, "tools": [TOOL], "tool_prompt": "Use them."}
        for choice in ("auto", "none", "required"):
            await server.post("/v1/chat/completions", {**body, "tool_choice": choice})
        auto, none, required = (request for request, _ in server.dispatcher.opened)
    listed = json.dumps([TOOL], separators=(",", ":"))
    assert auto.inputs == f"<|user|>Say\n---\n{listed}\nUse them.<|assistant|>"
    assert none.inputs == PROMPT
    assert required.inputs == auto.inputs
    assert [request.grammar is None for request in (auto, none, required)] == [True, True, False]


async def test_a_call_in_the_output_is_a_tool_call_whole_and_streamed() -> None:
    pieces = ('{"name": "f", ', '"arguments": {"x": 1}}')
    script = [
        *(Token(3 + i, piece, -1.0) for i, piece in enumerate(pieces)),
        Token(2, "</s>", -1.0, True),
    ]
    async with serving(ScriptedDispatcher(*script)) as server:
        body = {**CHAT, "tools": [TOOL]}
        told = (await server.post("/v1/chat/completions", body)).json()["choices"][0]
        chunks = await stream_events(server, "/v1/chat/completions", body)
    assert told["finish_reason"] == "tool_calls"
    assert told["message"]["content"] is None
    [call] = told["message"]["tool_calls"]
    assert call["function"] == {"name": "f", "arguments": '{"x": 1}'}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    [call] = deltas[1]["tool_calls"]
    assert (call["index"], call["type"]) == (0, "function")
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


HARMONY = (
    "{% for tool in tools or [] %}{{ '// ' + tool.function.description }}{% endfor %}"
    "{% for message in messages %}"
    "{% if '<|channel|>' in message.content %}{{ raise_exception('marks') }}{% endif %}"
    "{% if 'tool_calls' in message %}{% if message.content and message.thinking %}"
    "{{ raise_exception('both') }}{% endif %}"
    "<|start|>assistant<|channel|>analysis<|message|>{{ message.thinking or message.content }}"
    "<|end|><|start|>assistant to=functions.{{ message.tool_calls[0].function.name }}"
    "<|channel|>commentary json<|message|>"
    "{{ message.tool_calls[0].function.arguments | tojson }}<|call|>"
    "{% else %}<|start|>{{ message.role }}<|message|>{{ message.content }}<|end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
"""In the manner of gpt-oss's."""


def harmony_tokens(text: str) -> list[Token]:
    """The tokens of a text in gpt-oss's format."""
    parts = [part for part in re.split(r"(<\|\w+\|>)", text) if part]
    return [Token(3 + at, part, -1.0, part.startswith("<|")) for at, part in enumerate(parts)]


async def test_a_model_that_speaks_in_channels_is_read_by_them() -> None:
    call = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x": 1}<|call|>'
    script = harmony_tokens(f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{call}")
    async with serving(ScriptedDispatcher(*script), template=HARMONY) as server:
        path, body = "/v1/chat/completions", {**CHAT, "tools": [TOOL]}
        [choice] = (await server.post(path, body)).json()["choices"]
        chunks = [chunk["choices"][0] for chunk in await stream_events(server, path, body)]
        output = (await server.post("/v1/responses", {"input": "Say"})).json()["output"]
        await server.post(path, {**CHAT, "response_format": {"type": "json_object"}})
        *_, (bound, _) = server.dispatcher.opened
    assert choice["message"]["reasoning_content"] == "Hm."
    assert choice["message"]["content"] is None
    [told] = choice["message"]["tool_calls"]
    assert told["function"] == {"name": "f", "arguments": '{"x": 1}'}
    assert choice["finish_reason"] == chunks[-1]["finish_reason"] == "tool_calls"
    assert len(chunks) == len(script)
    assert [item["type"] for item in output] == ["reasoning", "message"]
    assert bound.inputs.endswith("<|start|>assistant<|channel|>final<|message|>")


async def test_a_history_with_calls_and_reasoning_suits_a_template_of_channels() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": '{"x": 1}'}}
    asked = {"role": "user", "content": "Say"}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c", "content": "1"}
    silent = {"type": "function", "function": {"name": "f"}}
    async with serving(template=HARMONY) as server:
        for more in ({"reasoning_content": "Hm."}, {"content": "Hm.", "reasoning_content": "Oh."}):
            messages = [asked, {**called, **more}, result]
            body = {"messages": messages, "tools": [silent]}
            assert (await server.post("/v1/chat/completions", body)).status == 200
        first, second = (request.inputs for request, _ in server.dispatcher.opened)
    assert first == second
    assert first == (
        "// <|start|>user<|message|>Say<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>Hm.<|end|>"
        '<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"x": 1}<|call|>'
        "<|start|>tool<|message|>1<|end|><|start|>assistant"
    )


async def test_a_chat_is_tokenised_as_it_is_sent_to_the_model() -> None:
    async with serving() as server:
        told = (await server.post("/chat_tokenize", CHAT)).json()
    assert told["templated_text"] == PROMPT
    assert "".join(token["text"] for token in told["tokenize_response"]) == PROMPT
    assert told["tokenize_response"][-1]["stop"] == len(PROMPT.encode())


async def test_a_last_message_of_the_assistant_goes_on() -> None:
    async with serving() as server:
        more = {"role": "assistant", "content": "I say "}
        await server.post("/v1/chat/completions", {"messages": [*CHAT["messages"], more]})
        [(request, _)] = server.dispatcher.opened
    assert request.inputs == f"{PROMPT}I say "


async def test_the_end_of_the_prompt_can_be_chosen() -> None:
    user, more = CHAT["messages"][0], {"role": "assistant", "content": "I say\n"}
    open_end, closed = f"{PROMPT}I say\n", f"{PROMPT}I say\n<|eos|>"
    cases: list[tuple[list[dict[str, str]], dict[str, bool | None], str]] = [
        ([user, more], {}, open_end),
        ([user, more], {"add_generation_prompt": False, "continue_final_message": True}, open_end),
        ([user, more], {"continue_final_message": True}, open_end),
        ([user, more], {"continue_final_message": None}, open_end),
        ([user, more], {"add_generation_prompt": True}, f"{closed}<|assistant|>"),
        ([user, more], {"continue_final_message": False}, f"{closed}<|assistant|>"),
        (
            [user, more],
            {"continue_final_message": False, "add_generation_prompt": False},
            closed,
        ),
        ([user], {"add_generation_prompt": False}, "<|user|>Say"),
        ([user], {"continue_final_message": True}, "<|user|>Say"),
        ([user], {"add_generation_prompt": True}, PROMPT),
    ]
    async with serving() as server:
        for messages, ending, text in cases:
            body = {"messages": messages, **ending}
            told = (await server.post("/chat_tokenize", body)).json()
            assert (ending, told["templated_text"]) == (ending, text)
        both = {"add_generation_prompt": True, "continue_final_message": True}
        answer = await server.post(CHATS, {**CHAT, **both})
    assert answer.status == 422
    assert (
        "`continue_final_message` and `add_generation_prompt`" in answer.json()["error"]["message"]
    )


async def test_a_wrong_message_is_refused_with_its_path() -> None:
    user = CHAT["messages"][0]
    call = {"id": "a", "function": {"name": "f", "arguments": '{"x": '}}
    async with serving() as server:
        for message, path in (
            ({"role": "banana", "content": "a"}, "`messages.1.role`"),
            (
                {"role": "assistant", "tool_calls": [call]},
                "`messages.1.tool_calls.0.function.arguments`",
            ),
            ({"role": "user", "content": [{"type": "text"}]}, "`messages.1.content.0.text`"),
        ):
            answer = await server.post(CHATS, {"messages": [user, message]})
            assert answer.status == 422
            assert path in answer.json()["error"]["message"]


async def test_the_served_model_is_listed() -> None:
    async with serving() as server:
        told = (await server.request("GET", "/v1/models")).json()
    name = "bigscience/bloom-560m"
    model = {"id": name, "object": "model", "created": 0, "owned_by": name}
    assert told == {"object": "list", "data": [model]}


async def test_an_invocation_with_messages_or_a_prompt_is_openais() -> None:
    async with serving() as server:
        told = (await server.post("/invocations", CHAT)).json()
        assert told["object"] == "chat.completion"
        told = (await server.post("/invocations", PLAIN)).json()
        assert told["object"] == "text_completion"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"previous_response_id": "r"}, "`previous_response_id` is not supported"),
        ({"background": True}, "`background` is not supported"),
        ({"tools": [{"type": "web_search"}]}, "`web_search` is not supported as a tool"),
        ({"tools": [{"type": "function"}]}, "`tools.0.name` is required"),
        (
            {"metadata": {str(n): "" for n in range(17)}},
            "metadata: Dictionary should have at most 16",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "`item_reference` is not supported"),
        ({"input": []}, "`input` cannot be empty"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "`input` cannot be empty"),
        ({"input": [{"role": "banana", "content": "a"}]}, "`input.0.role` must be one of"),
        ({"input": [{"content": "a"}]}, "`input.0.role` is required"),
        ({"input": [{"type": "function_call"}]}, "`input.0.name` is required"),
        (
            {"input": [{"type": "function_call", "name": "f", "arguments": '{"x'}]},
            "`input.0.arguments` is not valid JSON",
        ),
        (
            {"input": [{"type": "function_call_output", "output": [{"type": "input_image"}]}]},
            "`input.0.output.0`: image modality is not supported",
        ),
        ({"max_output_tokens": 0}, "`max_output_tokens` must be strictly positive"),
        (
            {"include": ["reasoning.encrypted_content"]},
            "`include` supports only `message.output_text.logprobs`. Given:"
            " `reasoning.encrypted_content`",
        ),
        ({"include": ["message.output_text.logprobs"] * 17}, "include: List should have at most"),
        ({"include": "message.output_text.logprobs"}, "include: "),
        ({"top_logprobs": 21}, "`top_logprobs` must be >= 0 and <= 20. Given: 21"),
        ({"top_logprobs": -1}, "top_logprobs: "),
        ({"tools": [{"type": "function", "name": ""}]}, "tools.0.name: String should have at"),
        ({"temperature": -1}, "`temperature` must be strictly positive"),
    ],
    ids=str,
)
async def test_what_a_response_may_not_ask(body: dict[str, Any], text: str) -> None:
    async with serving() as server:
        answer = await server.post("/v1/responses", {"input": "Say", **body})
        assert answer.status == 422
        assert text in answer.json()["error"]["message"]


async def test_a_response_takes_a_history_with_calls_and_their_results() -> None:
    async with serving() as server:
        body = {
            "instructions": "Be brief.",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Say"}]},
                {"type": "reasoning", "id": "rs_1", "summary": []},
                {"type": "message", "role": "assistant", "content": "I will."},
                {"role": "developer", "content": "Go."},
                {"role": "user", "content": "Now"},
            ],
        }
        told = (await server.post("/v1/responses", body, headers=REQUEST_ID_HEADER)).json()
        [(request, _)] = server.dispatcher.opened
    assert request.inputs == (
        "<|system|>Be brief.<|user|>Say<|assistant|>I will.<|eos|>"
        "<|system|>Go.<|user|>Now<|assistant|>"
    )
    assert (told["id"], told["status"], told["store"]) == ("resp_r1", "completed", False)
    [item] = told["output"]
    assert item["content"][0]["text"] == TEXT
    assert told["usage"]["output_tokens"] == 3
    assert told["usage"]["input_tokens_details"] == {"cached_tokens": 2}


@pytest.mark.parametrize(
    ("body", "rivals"),
    [
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 1}, 1),
        ({"top_logprobs": 1}, 1),
    ],
    ids=str,
)
async def test_a_response_has_the_log_probabilities_of_its_text(
    body: dict[str, Any], rivals: int
) -> None:
    top = TopTokens((16,), (-2.0,))
    script = (Token(15, " Hello", -0.25, top=top), Token(2, "</s>", -1.0, True))
    async with serving(ScriptedDispatcher(*script)) as server:
        answer = (await server.post(RESPONSES, {"input": "Say", **body})).json()
        events = await stream_events(server, RESPONSES, {"input": "Say", **body})
        request, _ = server.dispatcher.opened[0]
    rival = {"token": " «世»", "logprob": -2.0, "bytes": list(" «世»".encode())}
    entry = {"token": " Hello", "logprob": -0.25, "bytes": list(b" Hello")}
    expected = [{**entry, "top_logprobs": [rival] * rivals}]
    assert answer["output"][0]["content"][0]["logprobs"] == expected
    assert answer["top_logprobs"] == rivals
    texts = [event for event in events if "output_text" in event["type"]]
    assert [event["logprobs"] for event in texts] == [expected, expected]
    assert (request.report.raw_logprobs, request.report.top_n) == (True, rivals)


@pytest.mark.parametrize(
    "body", [{}, {"include": []}, {"include": None}, {"top_logprobs": 0}], ids=str
)
async def test_a_response_has_no_log_probabilities_by_default(body: dict[str, Any]) -> None:
    async with serving() as server:
        answer = (await server.post(RESPONSES, {"input": "Say", **body})).json()
        [(request, _)] = server.dispatcher.opened
    assert answer["output"][0]["content"][0]["logprobs"] == []
    assert not request.report.raw_logprobs


async def test_the_events_of_a_response_build_its_items() -> None:
    async with serving() as server:
        told = await stream_events(server, "/v1/responses", {"input": "Say"})
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert [event["type"].removeprefix("response.") for event in told] == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done", "content_part.done"),
        *("output_item.done", "completed"),
    ]
    assert told[0]["response"]["output"] == []
    assert told[2]["item"]["content"] == []
    [item] = told[-1]["response"]["output"]
    assert item["content"][0]["text"] == TEXT == told[6]["text"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"inputs": "a</s>b"}),
        ("/generate_stream", {"inputs": "</s>"}),
        ("/", {"inputs": "x</s></s>"}),
        ("/v1/completions", {"model": "m", "prompt": "a</s>", "echo": True, "max_tokens": 0}),
        ("/v1/completions", {"model": "m", "prompt": ["fine", "not</s>"]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a</s>"}]}),
        ("/v1/responses", {"model": "m", "input": "a</s>"}),
    ],
)
async def test_text_with_a_token_that_the_model_lacks_is_refused_on_every_route(
    path: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer's last token is one more than the model has."""
    end = MODEL.tokenizer.encode("</s>")[0]
    monkeypatch.setattr("tests.support.serving.VOCAB_SIZE", end)
    async with serving(template="{{ messages[-1].content }}") as server:
        answer = await server.post(path, body)
        assert answer.status == 422
        assert "contains the token `</s>`" in answer.body.decode()
