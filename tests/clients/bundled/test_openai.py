"""OpenAI's client against the bundled pair."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Any, Literal

import httpx2 as httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, Field

QUESTION: Any = [{"role": "user", "content": "What does shutil.copy do?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "copy",
        "parameters": {
            "type": "object",
            "properties": {
                "source": {"type": "string", "maxLength": 8},
                "deep": {"type": "boolean"},
            },
            "required": ["source", "deep"],
            "additionalProperties": False,
        },
    },
}
OTHER: Any = {"type": "function", "function": {"name": "move", "parameters": {"type": "object"}}}
SHORT: Any = {"model": "tgi", "temperature": 0, "max_tokens": 24}


class City(BaseModel):
    name: str = Field(max_length=8)
    size: Literal["small", "large"]
    tags: list[bool] = Field(max_length=3)


@pytest.fixture
def client(pair: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{pair}/v1", api_key="-", max_retries=0) as opened:
        yield opened


def test_a_chat_streams_the_same_text(client: OpenAI) -> None:
    whole = client.chat.completions.create(messages=QUESTION, **SHORT)
    options: Any = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = client.chat.completions.create(messages=QUESTION, **SHORT, **options)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert len(chunks) == 24
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert last.usage
    assert whole.usage
    assert last.usage.completion_tokens == whole.usage.completion_tokens == 24


def test_usage_counts_cached_prompt_tokens(client: OpenAI) -> None:
    text = "Where do the copies go, and " * 20 + "why?"
    first, again = (
        client.chat.completions.create(messages=[{"role": "user", "content": text}], **SHORT)
        for _ in range(2)
    )
    response = client.responses.create(model="tgi", input=text, max_output_tokens=1)
    assert first.usage
    assert again.usage
    assert response.usage
    result = [usage.prompt_tokens_details for usage in (first.usage, again.usage)]
    cached = [details.cached_tokens or 0 for details in result if details]
    assert cached[0] == 0 < cached[1] < again.usage.prompt_tokens
    assert response.usage.input_tokens_details.cached_tokens == cached[1]


def test_the_streaming_helper_assembles_the_same_message(client: OpenAI) -> None:
    request: Any = {"messages": QUESTION, "model": "tgi", "temperature": 0}
    with client.chat.completions.stream(**request) as stream:
        for _ in stream:
            pass
        result = stream.get_final_completion().choices[0].message
    whole = client.chat.completions.create(**request)
    assert (result.role, result.content) == ("assistant", whole.choices[0].message.content)


async def test_the_async_client_gets_the_same(pair: str, client: OpenAI) -> None:
    create: Any = client.chat.completions.create
    whole = await asyncio.to_thread(create, messages=QUESTION, **SHORT)
    async with AsyncOpenAI(base_url=f"{pair}/v1", api_key="-") as other:
        answer = await other.chat.completions.create(messages=QUESTION, **SHORT)
        stream = await other.chat.completions.create(messages=QUESTION, stream=True, **SHORT)
        pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
    text = whole.choices[0].message.content
    assert answer.choices[0].message.content == "".join(pieces) == text


def test_an_answer_that_ends_by_itself_stops(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="tgi", messages=QUESTION, temperature=0)
    assert answer.choices[0].finish_reason == "stop"
    assert "<|" not in (answer.choices[0].message.content or "")


def test_a_stop_string_is_not_in_the_output(client: OpenAI) -> None:
    whole = client.chat.completions.create(messages=QUESTION, **SHORT)
    text = whole.choices[0].message.content or ""
    for stop in (text[5:9], text[10:24], text[1:2]):
        request: Any = {**SHORT, "stop": stop, "messages": QUESTION}
        cut = client.chat.completions.create(**request).choices[0]
        chunks = list(client.chat.completions.create(**request, stream=True))
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert cut.message.content == "".join(pieces) == text[: text.index(stop)]
        assert cut.finish_reason == chunks[-1].choices[0].finish_reason == "stop"


def test_choices_differ_and_repeat_with_their_seed(client: OpenAI) -> None:
    request: Any = {"model": "tgi", "messages": QUESTION, "max_tokens": 16, "n": 2, "seed": 5}
    first, again = (client.chat.completions.create(**request, temperature=1.5) for _ in range(2))
    texts = [[choice.message.content for choice in answer.choices] for answer in (first, again)]
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][1]
    streamed = ["", ""]
    for chunk in client.chat.completions.create(**request, temperature=1.5, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts[0]


def test_log_probabilities_are_the_models(client: OpenAI) -> None:
    """A bias of -100 moves the choice, but not what the model thinks of it."""
    request: Any = {"messages": QUESTION, **SHORT, "logprobs": True, "top_logprobs": 3}
    plain = client.chat.completions.create(**request | {"max_tokens": 1})
    assert plain.choices[0].logprobs
    [first] = plain.choices[0].logprobs.content or []
    assert first.logprob == max(top.logprob for top in first.top_logprobs)
    barred = client.post(
        "/chat/completions",
        body={**request, "max_tokens": 1, "logit_bias": dict.fromkeys(map(str, range(1000)), -100)},
        cast_to=httpx.Response,
    ).json()["choices"][0]["logprobs"]["content"][0]
    assert [top["logprob"] for top in barred["top_logprobs"]] == pytest.approx(
        [top.logprob for top in first.top_logprobs], abs=1e-3
    )


def test_completions_of_several_prompts_equal_those_of_each_alone(client: OpenAI) -> None:
    prompts = ["def main(", "import os", "class "]
    together = client.completions.create(prompt=prompts, **SHORT)
    alone = [client.completions.create(prompt=prompt, **SHORT) for prompt in prompts]
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    assert [choice.text for choice in together.choices] == [each.choices[0].text for each in alone]
    streamed = ["", "", ""]
    for chunk in client.completions.create(prompt=prompts, stream=True, **SHORT):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [choice.text for choice in together.choices]
    assert together.usage
    assert together.usage.completion_tokens == 3 * 24


def test_a_loglikelihood_is_read_from_the_echo(client: OpenAI, pair: str) -> None:
    """As evaluation harnesses do: ids in, greedy if each token is the most likely one."""
    context = "What does shutil.copy do?"
    body = {"inputs": context, "parameters": {"decoder_input_details": True, "max_new_tokens": 20}}
    details = httpx.post(f"{pair}/generate", json=body).json()["details"]
    start = len(details["prefill"])
    ids = [token["id"] for token in details["prefill"] + details["tokens"]]
    for prompt, likely in ((ids, True), ([*ids[:-1], 100], False)):
        answer = client.completions.create(
            model="tgi", prompt=prompt, echo=True, logprobs=1, max_tokens=1, temperature=0
        )
        result = answer.choices[0].logprobs
        assert result
        assert result.token_logprobs
        assert result.top_logprobs
        assert result.tokens
        assert len(result.tokens) == len(prompt) + 1
        assert result.token_logprobs[0] is None
        values, tops = result.token_logprobs[start:-1], result.top_logprobs[start:-1]
        rank = [value == max(top.values()) for value, top in zip(values, tops, strict=True)]
        assert all(rank) == likely
        assert all(value is not None and math.isfinite(value) for value in values)
        assert answer.choices[0].text.startswith(context)


def test_structured_output_is_parsed_into_its_class(client: OpenAI) -> None:
    for seed in range(5):
        answer = client.chat.completions.parse(
            model="tgi", messages=QUESTION, response_format=City, seed=seed, max_tokens=200
        )
        assert isinstance(answer.choices[0].message.parsed, City)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "copy"}}])
def test_a_required_call_fits_its_schema_and_streams(client: OpenAI, choice: Any) -> None:
    request: Any = {"messages": QUESTION, "tools": [TOOL], "tool_choice": choice}
    request |= SHORT | {"max_tokens": 200}
    answer = client.chat.completions.create(**request).choices[0]
    assert answer.finish_reason == "tool_calls"
    assert answer.message.content is None
    assert answer.message.tool_calls
    [call] = answer.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "copy"
    assert set(json.loads(call.function.arguments)) == {"source", "deep"}
    with client.chat.completions.stream(**request) as stream:
        for _ in stream:
            pass
        result = stream.get_final_completion().choices[0].message.tool_calls
    assert result
    assert result[0].function.arguments == call.function.arguments


def test_tool_choice_none_calls_no_tool(client: OpenAI) -> None:
    plain = client.chat.completions.create(messages=QUESTION, **SHORT)
    none = client.chat.completions.create(
        messages=QUESTION, tools=[TOOL, OTHER], tool_choice="none", **SHORT
    )
    assert none.choices[0].message.content == plain.choices[0].message.content
    assert none.choices[0].message.tool_calls is None


def test_tool_choice_auto_may_answer_with_text(client: OpenAI) -> None:
    answer = client.chat.completions.create(messages=QUESTION, tools=[TOOL, OTHER], **SHORT)
    assert answer.choices[0].message.content
    assert answer.choices[0].message.tool_calls is None


def test_responses_give_the_text_of_the_chat(client: OpenAI) -> None:
    text = client.chat.completions.create(messages=QUESTION, model="tgi", temperature=0)
    answer = client.responses.create(model="tgi", input=QUESTION, temperature=0)
    assert answer.output_text == text.choices[0].message.content
    assert answer.status == "completed"
    with client.responses.stream(model="tgi", input=QUESTION, temperature=0) as stream:
        deltas = [e.delta for e in stream if e.type == "response.output_text.delta"]
        assert "".join(deltas) == stream.get_final_response().output_text == answer.output_text
    cut = client.responses.create(model="tgi", input="Say", max_output_tokens=2, temperature=0)
    assert cut.status == "incomplete"


def test_responses_call_tools_and_parse_output(client: OpenAI) -> None:
    tool: Any = {"type": "function", **TOOL["function"]}
    answer = client.responses.create(
        model="tgi", input=QUESTION, tools=[tool], tool_choice="required", temperature=0
    )
    [call] = answer.output
    assert call.type == "function_call"
    assert set(json.loads(call.arguments)) == {"source", "deep"}
    done = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
    turns: Any = [*QUESTION, call.model_dump(), done]
    after = client.responses.create(model="tgi", input=turns, max_output_tokens=5)
    assert after.usage
    assert after.usage.output_tokens <= 5
    parsed = client.responses.parse(model="tgi", input="Say", text_format=City, temperature=0)
    assert isinstance(parsed.output_parsed, City)


def test_errors_have_the_clients_classes_and_our_messages(client: OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match=r"`top_p` must be > 0.0 and <= 1.0"):
        client.chat.completions.create(model="tgi", messages=QUESTION, top_p=1.5)
    with pytest.raises(openai.UnprocessableEntityError, match=r"`top_p` must be > 0.0"):
        client.chat.completions.create(model="tgi", messages=QUESTION, top_p=1.5, stream=True)
    schema: Any = {"name": "x", "schema": {"type": "nonsense"}}
    format: Any = {"type": "json_schema", "json_schema": schema}
    with pytest.raises(openai.UnprocessableEntityError, match="Invalid type: nonsense") as caught:
        client.chat.completions.create(model="tgi", messages=QUESTION, response_format=format)
    assert caught.value.code == "validation"
    assert caught.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError, match="Not Found"):
        client.embeddings.create(model="tgi", input="a")


def test_the_model_is_listed(client: OpenAI) -> None:
    [model] = client.models.list().data
    assert model.id == "tgi-laps/demo-target"


def test_equal_requests_at_once_get_equal_answers(client: OpenAI, pair: str) -> None:
    alone = client.chat.completions.create(messages=QUESTION, **SHORT)

    async def together() -> set[str | None]:
        async with AsyncOpenAI(base_url=f"{pair}/v1", api_key="-") as other:
            calls = [other.chat.completions.create(messages=QUESTION, **SHORT) for _ in range(8)]
            answers = await asyncio.gather(*calls)
        return {answer.choices[0].message.content for answer in answers}

    assert asyncio.run(together()) == {alone.choices[0].message.content}


def test_drafts_change_nothing_and_are_counted(client: OpenAI) -> None:
    request: Any = {"messages": QUESTION, **SHORT}
    drafted = client.chat.completions.create(**request)
    plain = client.chat.completions.create(**request, extra_body={"speculate": 0})
    assert drafted.choices == plain.choices
    counts = [answer.metrics["speculative_decoding"] for answer in (drafted, plain)]
    assert counts[1]["num_draft_tokens"] == 0
    histogram = counts[0]["acceptance_histogram"]
    assert sum(histogram) == counts[0]["num_spec_steps"]
    assert len(histogram) == counts[0]["num_spec_tokens"] + 1


def test_hostile_grammars_are_refused_or_served_without_harm(client: OpenAI, pair: str) -> None:
    before = client.chat.completions.create(messages=QUESTION, **SHORT)
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(120):
        deep = {"type": "array", "items": deep, "minItems": 1}
    wide = {"anyOf": [{"type": "string", "pattern": f"^(a|b){{{n}}}c"} for n in range(400)]}
    patterns = ("((a{1000}){1000}){1000}", "(.*a){40}", "(a|b|ab)*(c|d|cd)*" * 50, "\\p{L}{9999}")
    formats: list[Any] = [{"type": "regex", "value": text} for text in patterns]
    formats += [{"type": "json", "value": schema} for schema in (deep, wide, {"$ref": "#"})]
    for format in formats:
        body = {**SHORT, "max_tokens": 3, "messages": QUESTION, "response_format": format}
        answer = httpx.post(f"{pair}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code in (200, 422, 424), (format, answer.text)
    after = client.chat.completions.create(messages=QUESTION, **SHORT)
    assert after.choices == before.choices
