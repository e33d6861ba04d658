"""The Messages API over HTTP, with a dispatcher that follows a script."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.anthropic.chat_body import generation_body
from router.anthropic.error_form import error_type
from router.anthropic.request_models import MessagesRequest
from router.errors import GenerationFailed, ValidationError
from router.http.json_body import validate_body
from tests.support.serving import HELLO, RunningServer, ScriptedDispatcher, Token, serving

PATH = "/v1/messages"
USER = {"role": "user", "content": "Say"}
ASKED: dict[str, Any] = {"max_tokens": 7, "messages": [USER]}
TOOL = {"name": "f", "description": "It does f", "input_schema": {"type": "object"}}
END = HELLO[-1]
HERMES = (
    "{% if tools %}{{ tools[0].function.name }} <tool_call>{% endif %}{{ messages[0].content }}"
)
CALL = (Token(3, '{"name": "f", ', -0.5), Token(4, '"arguments": {"a": 1}}', -0.5), END)


def chat_of(**more: Any) -> dict[str, Any]:
    """The fields that are set in the chat request of a body."""
    body = validate_body({**ASKED, **more}, MessagesRequest)
    return generation_body(body, max_stops=4).model_dump(exclude_defaults=True, exclude_none=True)


async def events(server: RunningServer, **more: Any) -> list[dict[str, Any]]:
    """The events of a stream, whose `event:` lines have to be their types."""
    answer = await server.post(PATH, {**ASKED, "stream": True, **more})
    *parts, rest = answer.body.decode().split("\n\n")
    assert rest == ""
    named = [part.split("\n", 1) for part in parts]
    values = [json.loads(data.removeprefix("data: ")) for _, data in named]
    assert [name for name, _ in named] == [f"event: {value['type']}" for value in values]
    return values


def usage(output: int) -> dict[str, int]:
    return {
        "input_tokens": 1,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 2,
        "output_tokens": output,
    }


async def test_a_message_has_anthropics_shape_and_both_ids() -> None:
    async with serving() as server:
        answer = await server.post(PATH, {**ASKED, "model": "mine"}, headers={"x-request-id": "r1"})
        [(request, _)] = server.dispatcher.opened
    assert answer.json() == {
        "id": "msg_r1",
        "type": "message",
        "role": "assistant",
        "model": "mine",
        "content": [{"type": "text", "text": " Hello «世»"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": usage(3),
    }
    assert answer.headers["request-id"] == answer.headers["x-request-id"] == "r1"
    assert (request.inputs, request.max_new_tokens) == ("<|user|>Say<|assistant|>", 7)


async def test_a_stream_opens_and_closes_each_block_between_start_and_stop() -> None:
    marked = [Token(3, "<tool_call>", -0.5), *CALL[:2], Token(4, "</tool_call>", -0.5), END]
    script = ScriptedDispatcher(Token(3, "So ", -0.5), *marked)
    async with serving(script, template=HERMES) as server:
        start, *blocks, delta, stop = await events(server, tools=[TOOL])
    assert (start["type"], start["message"]["content"]) == ("message_start", [])
    assert (start["message"]["stop_reason"], start["message"]["usage"]) == (None, usage(0))
    assert blocks[0]["content_block"] == {"type": "text", "text": ""}
    assert blocks[1]["delta"] == {"type": "text_delta", "text": "So"}
    assert blocks[2] == {"type": "content_block_stop", "index": 0}
    call = blocks[3]["content_block"]
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "f", {})
    assert blocks[4]["delta"] == {"type": "input_json_delta", "partial_json": '{"a": 1}'}
    assert blocks[5] == {"type": "content_block_stop", "index": 1}
    assert len(blocks) == 6
    assert delta["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert (delta["usage"], stop) == (usage(6), {"type": "message_stop"})


async def test_a_call_of_a_tool_is_a_block_with_its_arguments_as_an_object() -> None:
    async with serving(ScriptedDispatcher(*CALL)) as server:
        message = (await server.post(PATH, {**ASKED, "tools": [TOOL]})).json()
    (block,) = message["content"]
    assert (block["name"], block["input"], message["stop_reason"]) == ("f", {"a": 1}, "tool_use")


async def test_reasoning_is_a_block_of_its_own_before_the_text() -> None:
    script = (Token(3, "<think>Hm", -0.5), Token(4, "</think>Yes", -0.5), END)
    template = "{{ messages[0].content }}{# <think></think> #}"
    async with serving(ScriptedDispatcher(*script), template=template) as server:
        message = (await server.post(PATH, ASKED)).json()
    assert message["content"] == [
        {"type": "thinking", "thinking": "Hm", "signature": ""},
        {"type": "text", "text": "Yes"},
    ]


@pytest.mark.parametrize(
    ("ending", "reason"),
    [("length", "max_tokens"), ("eos_token", "end_turn"), ("stop_sequence", "stop_sequence")],
)
async def test_the_stop_reason_says_how_the_message_ended(ending: str, reason: str) -> None:
    async with serving(ScriptedDispatcher(*HELLO, ending=ending)) as server:
        assert (await server.post(PATH, ASKED)).json()["stop_reason"] == reason


async def test_an_error_in_a_stream_is_its_last_event() -> None:
    async with serving(ScriptedDispatcher(HELLO[0], GenerationFailed("x"))) as server:
        *_, last = await events(server)
    text = "Request failed during generation: Server error: x"
    assert last == {"type": "error", "error": {"type": "api_error", "message": text}}


async def test_tokens_are_counted_as_they_are_sent_to_the_model() -> None:
    body = {"messages": [USER], "system": "Be brief.", "tools": [TOOL]}
    async with serving() as server:
        counted = (await server.post(f"{PATH}/count_tokens", body)).json()
        sent = (await server.post("/tokenize", {"inputs": "<|user|>Say<|assistant|>"})).json()
        bare = (await server.post(f"{PATH}/count_tokens", {"messages": [USER]})).json()
        assert server.dispatcher.opened == []
    assert bare == {"input_tokens": len(sent)}
    assert counted["input_tokens"] > bare["input_tokens"]


def test_sampling_and_stops_mean_what_they_mean_in_a_chat() -> None:
    fields = {"temperature": 0.5, "top_p": 0.75, "top_k": 3, "stream": True, "model": "m"}
    chat = chat_of(**fields, stop_sequences=["a", "b"], metadata={"user_id": "u"})
    assert chat == {
        **fields,
        "max_tokens": 7,
        "stop": ["a", "b"],
        "messages": [USER],
        "tools": [],
    }


def test_a_system_prompt_comes_first_as_text_or_as_blocks() -> None:
    blocks = [
        {"type": "text", "text": "Be ", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "brief."},
    ]
    for system in ("Be brief.", blocks):
        messages = chat_of(system=system)["messages"]
        assert messages == [{"role": "system", "content": "Be brief."}, USER]


def test_a_system_message_may_come_later_too() -> None:
    later = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    expected = {"role": "system", "content": "Be brief."}
    assert chat_of(messages=[USER, later, USER])["messages"] == [USER, expected, USER]


def test_calls_and_results_become_messages_of_their_own_in_order() -> None:
    call = {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}
    thought = {"type": "thinking", "thinking": "Hm", "signature": "s"}
    said = [thought, {"type": "text", "text": "So"}, call]
    parts = [{"type": "text", "text": "one"}]
    results = [
        {"type": "tool_result", "tool_use_id": "t1", "content": parts},
        {"type": "tool_result", "tool_use_id": "t2", "is_error": True},
        {"type": "text", "text": "And now?"},
    ]
    turns = [USER, {"role": "assistant", "content": said}, {"role": "user", "content": results}]
    function = {"name": "f", "arguments": {"a": 1}}
    assert chat_of(messages=turns)["messages"] == [
        USER,
        {
            "role": "assistant",
            "content": "So",
            "reasoning_content": "Hm",
            "tool_calls": [{"id": "t1", "function": function}],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "one"},
        {"role": "tool", "tool_call_id": "t2", "content": ""},
        {"role": "user", "content": "And now?"},
    ]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"function": {"name": "f"}}),
    ],
)
def test_the_choice_of_a_tool_is_that_of_a_chat(choice: dict[str, Any], expected: Any) -> None:
    chat = chat_of(tools=[TOOL], tool_choice={**choice, "disable_parallel_tool_use": True})
    assert (chat["tool_choice"], chat["parallel_tool_calls"]) == (expected, False)
    (tool,) = chat["tools"]
    assert tool["function"] == {
        "name": "f",
        "description": "It does f",
        "parameters": {"type": "object"},
    }


def test_thinking_effort_and_format_reach_the_template_and_the_grammar() -> None:
    schema = {"type": "object"}
    output = {"effort": "low", "format": {"type": "json_schema", "schema": schema}}
    chat = chat_of(thinking={"type": "disabled"}, output_config=output)
    assert chat["chat_template_kwargs"] == {"enable_thinking": False, "thinking": False}
    assert chat["reasoning_effort"] == "low"
    assert chat["response_format"]["json_schema"] == {"schema_": schema}


IMAGE = {"type": "image", "source": {}}
USE = {"type": "tool_use", "id": "t", "name": "f", "input": {}}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"max_tokens": 0}, "`max_tokens` must be strictly positive"),
        (
            {"stop_sequences": list("abcde")},
            "`stop_sequences` supports up to 4 stop sequences. Given: 5",
        ),
        ({"mcp_servers": [{}]}, "`mcp_servers` is not supported"),
        ({"container": "c"}, "`container` is not supported"),
        ({"context_management": {"edits": []}}, "`context_management` is not supported"),
        ({"tools": [{**TOOL, "type": "web_search_20250305"}]}, "`web_search_20250305` is not"),
        ({"tool_choice": {"type": "tool"}}, "`tool_choice.name` is required"),
        ({"system": [IMAGE]}, "`system.0`: `image` is not supported here"),
    ],
)
def test_what_is_not_supported_or_missing_is_named(body: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError) as fault:
        chat_of(**body)
    assert text in str(fault.value)


@pytest.mark.parametrize(
    ("role", "block", "text"),
    [
        ("user", IMAGE, "`messages.0.content.0`: `image` is not supported"),
        ("system", USE, "`tool_use` is not supported as a block of a message of the system"),
        ("user", USE, "`tool_use` is not supported as a block of a message of the user"),
        ("assistant", {"type": "redacted_thinking"}, "`redacted_thinking` is not supported"),
        ("user", {"type": "text"}, "`messages.0.content.0.text` is required"),
        ("user", {"type": "tool_result"}, "`messages.0.content.0.tool_use_id` is required"),
        (
            "user",
            {"type": "tool_result", "tool_use_id": "t", "content": [IMAGE]},
            "`messages.0.content.0.content.0`: `image` is not supported here",
        ),
        ("assistant", {**USE, "name": None}, "`messages.0.content.0.name` is required"),
    ],
)
def test_a_block_that_cannot_be_used_is_named(role: str, block: Any, text: str) -> None:
    with pytest.raises(ValidationError) as fault:
        chat_of(messages=[{"role": role, "content": [block]}])
    assert text in str(fault.value)


@pytest.mark.parametrize(
    ("status", "type"),
    [
        *((400, "invalid_request_error"), (422, "invalid_request_error")),
        *((401, "authentication_error"), (404, "not_found_error"), (413, "request_too_large")),
        *((429, "rate_limit_error"), (424, "api_error"), (500, "api_error")),
        (503, "overloaded_error"),
    ],
)
def test_the_type_of_an_error_follows_from_its_status(status: int, type: str) -> None:
    assert error_type(status) == type
