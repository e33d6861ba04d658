"""A real chat model over HTTP: templates, streams, tool calls, schemas, one and three shards."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from openai import OpenAI
from transformers import AutoModelForCausalLM, AutoTokenizer

from router.text.chat_template import ChatTemplate
from tests.support.processes import launched
from tests.support.public_models import public_model

pytestmark = pytest.mark.models
TOKENS = 24
SYSTEM = {"role": "system", "content": "You are brief."}
QUESTION = {"role": "user", "content": "What is the capital of France?"}
ANSWER = {"role": "assistant", "content": "Paris."}
CHATS = {
    "question": [QUESTION],
    "system": [SYSTEM, QUESTION],
    "turns": [QUESTION, ANSWER, {"role": "user", "content": "And of Italy? 😀"}],
    "continued": [QUESTION, {"role": "assistant", "content": "The capital of France"}],
}
SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "country": {"type": "string", "enum": ["France", "Italy", "Spain"]},
        "population": {"type": "integer", "minimum": 1, "maximum": 99_000_000},
    },
    "required": ["city", "country", "population"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def model() -> Path:
    return public_model("smollm2")


@pytest.fixture(scope="module", params=["1", "3"])
def shards(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client(model: Path, shards: str) -> Iterator[OpenAI]:
    """A client of a server that drafts by prompt lookup."""
    flags = ("--model-id", str(model), "--num-shard", shards, "--speculate", "4")
    with launched(*flags, "--max-total-tokens", "1024") as server:
        yield OpenAI(base_url=f"{server.url()}/v1", api_key="-", max_retries=0, timeout=120)


@cache
def generated(model: Path, chat: str) -> str:
    """The greedy answer of transformers."""
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    module: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    ids = torch.tensor([tokenizer(rendered(model, chat), add_special_tokens=False).input_ids])
    mask = torch.ones_like(ids)
    out = module.generate(ids, attention_mask=mask, max_new_tokens=TOKENS, do_sample=False)
    return str(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def rendered(model: Path, chat: str) -> str:
    """The prompt of transformers."""
    goes_on = CHATS[chat][-1]["role"] == "assistant"
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    return str(
        tokenizer.apply_chat_template(
            CHATS[chat],
            tokenize=False,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
        )
    )


@pytest.mark.parametrize("chat", CHATS)
def test_the_prompt_is_that_of_transformers(model: Path, chat: str) -> None:
    template = ChatTemplate.load(str(model))
    assert template
    assert template.render(CHATS[chat]) == rendered(model, chat)


@pytest.mark.parametrize("chat", CHATS)
def test_the_greedy_answer_is_that_of_generate_whole_and_streamed(
    client: OpenAI, model: Path, chat: str
) -> None:
    arguments: Any = {"messages": CHATS[chat], "max_tokens": TOKENS, "temperature": 0}
    whole = client.chat.completions.create(model="tgi", **arguments)
    pieces = list(client.chat.completions.create(model="tgi", stream=True, **arguments))
    assert whole.choices[0].message.content == generated(model, chat)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == generated(
        model, chat
    )
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_an_answer_follows_its_json_schema(client: OpenAI) -> None:
    response_format: Any = {
        "type": "json_schema",
        "json_schema": {"name": "city", "schema": SCHEMA, "strict": True},
    }
    messages: Any = [{"role": "user", "content": "Describe Rome as JSON."}]
    answer = client.chat.completions.create(
        model="tgi", messages=messages, max_tokens=100, response_format=response_format, seed=1
    )
    assert answer.choices[0].finish_reason == "stop"
    city = json.loads(answer.choices[0].message.content or "")
    assert list(city) == SCHEMA["required"]
    assert city["country"] in ("France", "Italy", "Spain")
    assert 1 <= city["population"] <= 99_000_000


def test_a_tool_is_called_and_its_result_is_answered(client: OpenAI) -> None:
    arguments: Any = {"model": "tgi", "tools": [TOOL], "max_tokens": 80, "seed": 1}
    messages: Any = [{"role": "user", "content": "What is the weather in Rome?"}]
    choice: Any = {"type": "function", "function": {"name": "get_weather"}}
    answer = client.chat.completions.create(messages=messages, tool_choice=choice, **arguments)
    assert answer.choices[0].finish_reason in ("stop", "tool_calls")
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "get_weather"
    values = json.loads(call.function.arguments)
    assert values.keys() == {"city", "unit"}
    assert values["unit"] in ("celsius", "fahrenheit")
    result = {"role": "tool", "tool_call_id": call.id, "content": "20 degrees, sunny"}
    messages += [answer.choices[0].message.model_dump(exclude_none=True), result]
    final = client.chat.completions.create(messages=messages, tool_choice="none", **arguments)
    assert final.choices[0].message.content


def test_sampled_answers_repeat_with_their_seed(client: OpenAI) -> None:
    arguments: Any = {"messages": [QUESTION], "max_tokens": TOKENS, "temperature": 1.2}
    texts = [
        client.chat.completions.create(model="tgi", seed=seed, **arguments)
        .choices[0]
        .message.content
        for seed in (1, 1, 2, 3)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) >= 2
