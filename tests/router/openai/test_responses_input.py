"""The items of a response's input become the messages of a chat, one for each turn."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.errors import ValidationError
from router.openai.history import template_messages
from router.openai.responses_request import ResponsesRequest, to_chat_body

USER = {"role": "user", "content": "a"}
REASONING = {"type": "reasoning", "id": "rs_1", "summary": []}
THOUGHT = {
    **REASONING,
    "content": [{"type": "reasoning_text", "text": "Hm."}],
    "summary": [{"type": "summary_text", "text": "not used"}],
}
SAID = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "I will.", "annotations": []}],
}


def call(id: str, arguments: str | None = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": id, "name": "f", "arguments": arguments}


def output(id: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": id, "output": "3"}


def chat_call(id: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments or {}}
    return {"id": id, "type": "function", "function": function}


def messages(*items: dict[str, Any]) -> list[dict[str, Any]]:
    body = ResponsesRequest.model_validate({"input": list(items)})
    return template_messages(to_chat_body(body).messages, reads_calls=True, reads_developer=True)


def assistant(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


RESULT = {"role": "tool", "content": "3", "tool_call_id": "c1"}


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([THOUGHT, SAID], [assistant("I will.", reasoning_content="Hm.")]),
        ([REASONING, SAID], [assistant("I will.")]),
        ([SAID, call("c1")], [assistant("I will.", tool_calls=[chat_call("c1")])]),
        (
            [THOUGHT, SAID, call("c1"), call("c2", '{"x": 1}')],
            [
                assistant(
                    "I will.",
                    tool_calls=[chat_call("c1"), chat_call("c2", {"x": 1})],
                    reasoning_content="Hm.",
                )
            ],
        ),
        (
            [THOUGHT, call("c1", ""), output("c1"), THOUGHT, SAID],
            [
                assistant(None, tool_calls=[chat_call("c1")], reasoning_content="Hm."),
                RESULT,
                assistant("I will.", reasoning_content="Hm."),
            ],
        ),
        ([SAID, SAID], [assistant("I will.\nI will.")]),
        ([call("c1", None)], [assistant(None, tool_calls=[chat_call("c1")])]),
        ([THOUGHT], []),
        (
            [{**REASONING, "summary": [{"type": "summary_text", "text": "Short."}]}, SAID],
            [assistant("I will.", reasoning_content="Short.")],
        ),
        (
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
            [assistant("No.")],
        ),
    ],
    ids=str,
)
def test_the_items_of_one_turn_are_one_message(
    items: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    assert messages(USER, *items, USER) == [USER, *expected, USER]


def test_a_last_message_of_the_assistant_keeps_its_white_space() -> None:
    assert messages(USER, {**SAID, "content": "I say:\n"})[-1] == assistant("I say:\n")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # timing is not asserted
@given(st.lists(st.sampled_from([USER, THOUGHT, SAID, call("c1"), output("c1")]), max_size=8))
def test_no_two_messages_of_the_assistant_are_adjacent_and_no_item_is_lost(
    items: list[dict[str, Any]],
) -> None:
    chat = messages(USER, *items)
    roles = [message["role"] for message in chat]
    assert ("assistant", "assistant") not in pairwise(roles)
    calls = [one for message in chat for one in message.get("tool_calls", ())]
    assert len(calls) == items.count(call("c1"))
    said = [message["content"] or "" for message in chat if message["role"] == "assistant"]
    assert "".join(said).count("I will.") == items.count(SAID)
    assert roles.count("tool") == items.count(output("c1"))
    assert roles.count("user") == items.count(USER) + 1


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"role": "banana", "content": "a"}, "`input.1.role` must be one of"),
        ({"role": "user", "content": [{"type": "text"}]}, "`input.1.content.0.text` is required"),
        (call("c1", '{"x": '), "`input.1.arguments` is not valid JSON"),
        (call("c1", "[]"), "`input.1.arguments` must be a JSON object"),
        ({"type": "computer_call"}, "`input.1.type`: `computer_call` is not supported"),
    ],
    ids=str,
)
def test_a_wrong_item_is_refused_with_its_path(item: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        messages(USER, item)
    assert text in str(caught.value)
