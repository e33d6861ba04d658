"""What `huggingface_hub`'s clients do with chats, tools and grammars of the bundled pair."""

from __future__ import annotations

import json
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import ValidationError

QUESTION = [{"role": "user", "content": "What does shutil.copy do?"}]
SHORT: Any = {"temperature": 0, "max_tokens": 24}
SCHEMA: Any = {
    "type": "object",
    "properties": {"a": {"enum": ["x", "y"]}, "b": {"type": "boolean"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TOOL: Any = {"type": "function", "function": {"name": "pick", "parameters": SCHEMA}}


def test_a_chat_streams_the_same_text(pair: str) -> None:
    client = InferenceClient(base_url=pair)
    whole = client.chat_completion(QUESTION, **SHORT)
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat_completion(QUESTION, **SHORT, **options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 24


async def test_the_async_client_gets_the_same(pair: str) -> None:
    async with AsyncInferenceClient(base_url=pair) as client:
        whole = await client.chat_completion(QUESTION, **SHORT)
        stream = await client.chat_completion(QUESTION, stream=True, **SHORT)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(pieces) == whole.choices[0].message.content


@pytest.mark.parametrize(
    "format",
    [
        {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}},
        {"type": "json", "value": SCHEMA},
        {"type": "json_object", "value": SCHEMA},
    ],
)
def test_the_answer_follows_the_response_format(pair: str, format: Any) -> None:
    client = InferenceClient(base_url=pair)
    answer = client.chat_completion(QUESTION, response_format=format, max_tokens=100)
    assert set(json.loads(answer.choices[0].message.content or "")) == {"a", "b"}


def test_an_answer_may_be_any_json_object_or_match_a_regex(pair: str) -> None:
    client = InferenceClient(base_url=pair)
    request: Any = {"type": "regex", "value": "[a-f]{3}-[0-9]{2}"}
    answer = client.chat_completion(QUESTION, response_format=request, max_tokens=20)
    text = answer.choices[0].message.content or ""
    assert (len(text), text[3]) == (6, "-")


def test_text_generation_follows_its_grammar(pair: str) -> None:
    client = InferenceClient(base_url=pair)
    for speculate in (0, 4):
        grammar: Any = {"type": "regex", "value": "(cat|dog)s?"}
        text = client.text_generation("I like", grammar=grammar, max_new_tokens=10)
        assert text.removeprefix("I like") in ("cat", "cats", "dog", "dogs")
        grammar = {"type": "json", "value": SCHEMA}
        text = client.text_generation("I like", grammar=grammar, max_new_tokens=80)
        assert set(json.loads(text.removeprefix("I like"))) == {"a", "b"}, speculate


def test_an_invalid_grammar_is_a_validation_error(pair: str) -> None:
    client = InferenceClient(base_url=pair)
    grammar: Any = {"type": "json", "value": {"type": "object"}}
    with pytest.raises(ValidationError, match="grammar is not valid"):
        client.text_generation("a", grammar=grammar)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "pick"}}])
def test_a_required_tool_is_called(pair: str, choice: Any) -> None:
    client = InferenceClient(base_url=pair)
    answer = client.chat_completion(QUESTION, tools=[TOOL], tool_choice=choice, max_tokens=100)
    assert answer.choices[0].finish_reason == "tool_calls"
    [call] = answer.choices[0].message.tool_calls or []
    assert call.function.name == "pick"
    assert set(json.loads(str(call.function.arguments))) == {"a", "b"}


def test_tool_calls_are_streamed(pair: str) -> None:
    client = InferenceClient(base_url=pair)
    request: Any = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 100, "stream": True}
    chunks = list(client.chat_completion(QUESTION, **request))
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert [call.function.name for call in calls if call.function.name] == ["pick"]
    assert set(json.loads("".join(call.function.arguments for call in calls))) == {"a", "b"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_a_final_assistant_message_is_continued(pair: str) -> None:
    client = InferenceClient(base_url=pair)
    whole = client.chat_completion(QUESTION, temperature=0, max_tokens=24)
    text = whole.choices[0].message.content or ""
    start = text[: text.index(" ", 10)]
    more = client.chat_completion(
        [*QUESTION, {"role": "assistant", "content": start}], temperature=0, max_tokens=8
    )
    assert text.startswith(start + (more.choices[0].message.content or "")[:8])
