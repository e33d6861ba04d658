"""The bundled pair behind the real launcher, met by real clients."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import ValidationError

from benchmark.demo.prompts import prompts
from tests.support.processes import TIMEOUT_SECONDS

DROPPED = 'tgi_request_failure{err="dropped"}'
PROMPT = "<|user|>What does shutil.copy do?<|assistant|>"


@pytest.fixture
def url(served_pair: str) -> str:
    return served_pair


def test_the_hub_client_streams_the_same_text(url: str) -> None:
    client = InferenceClient(base_url=url)
    whole: Any = client.text_generation(PROMPT, max_new_tokens=40, details=True)
    events = list(client.text_generation(PROMPT, max_new_tokens=40, details=True, stream=True))
    assert [e.token.id for e in events] == [token.id for token in whole.details.tokens]
    assert events[-1].generated_text == whole.generated_text
    assert events[-1].details
    assert events[-1].details.generated_tokens == len(events)


async def test_the_async_hub_client_streams_the_same_text(url: str) -> None:
    async with AsyncInferenceClient(base_url=url) as client:
        whole = await client.text_generation(PROMPT, max_new_tokens=40, return_full_text=False)
        stream = await client.text_generation(PROMPT, max_new_tokens=40, details=True, stream=True)
        pieces = [event.token.text async for event in stream if not event.token.special]
    assert "".join(pieces) == whole


def test_a_prompt_that_is_too_long_is_a_validation_error(url: str) -> None:
    with pytest.raises(ValidationError, match="Given: 6000 `inputs` tokens"):
        InferenceClient(base_url=url).text_generation("word " * 3000, max_new_tokens=1)


async def test_parameters_are_checked_in_tgis_order_the_grammar_last(url: str) -> None:
    grammar = {"grammar": {"type": "regex", "value": "("}}
    broken: list[tuple[dict[str, Any], str]] = [
        ({"top_k": 0, **grammar}, "`top_k` must be strictly positive"),
        ({"max_new_tokens": 1, **grammar}, "Given: 6000 `inputs` tokens"),
        ({"truncate": 9, "max_new_tokens": 1, **grammar}, "grammar is not valid"),
    ]
    async with aiohttp.ClientSession(url) as session:
        for parameters, text in broken:
            body = {"inputs": "word " * 3000, "parameters": parameters}
            async with session.post("/generate", json=body) as answer:
                assert answer.status == 422
                assert text in (await answer.json())["error"]


async def test_a_request_reports_its_state_and_is_cancelled_by_id(url: str) -> None:
    name = {"x-request-id": "mine"}
    async with aiohttp.ClientSession(url) as session, asyncio.timeout(TIMEOUT_SECONDS):
        body = _body(PROMPT, 1500)
        async with session.post("/generate_stream", json=body, headers=name) as stream:
            assert (await stream.content.readline()).startswith(b'data: {"index":1,')
            async with session.get("/requests/mine") as answer:
                [reply] = (await answer.json())["sequences"]
            assert reply["state"] == "running"
            assert reply["emitted_tokens"] > 0
            assert reply["attained_service"] > 0
            async with session.delete("/requests/mine") as answer:
                assert await answer.json() == {"request_id": "mine", "cancelled": 1}
            assert (await stream.content.read()).endswith(b'"error_type":"cancelled"}\n\n')
        async with session.get("/requests/mine") as answer:
            assert answer.status == 404


ALL_PARAMETERS = {
    "max_new_tokens": 10,
    "do_sample": True,
    "details": True,
    "return_full_text": True,
    "temperature": 0.5,
    "top_k": 40,
    "top_p": 0.9,
    "typical_p": 0.9,
    "repetition_penalty": 1.2,
    "frequency_penalty": 0.1,
    "stop": ["zzz"],
    "truncate": 5,
    "watermark": True,
    "seed": 0,
    "top_n_tokens": 3,
}


async def test_all_parameters_give_the_same_concurrently_and_without_drafts(
    url: str,
) -> None:
    async with aiohttp.ClientSession(url) as session, asyncio.timeout(TIMEOUT_SECONDS):

        async def answer(**more: Any) -> dict[str, Any]:
            body = {"inputs": PROMPT, "parameters": {**ALL_PARAMETERS, **more}}
            async with session.post("/generate", json=body) as reply:
                assert reply.status == 200
                return dict(await reply.json())

        first = await answer()
        others = await asyncio.gather(*(answer() for _ in range(4)), answer(speculate=0))
    for other in others:
        assert other["generated_text"] == first["generated_text"]
        for one, same in zip(other["details"]["tokens"], first["details"]["tokens"], strict=True):
            assert one.pop("logprob") == pytest.approx(same["logprob"], rel=1e-3)
            assert one.items() <= same.items()
        assert other["details"]["finish_reason"] == first["details"]["finish_reason"]
    assert first["generated_text"].startswith(PROMPT)
    assert first["details"]["seed"] == 0
    assert len(first["details"]["tokens"]) == len(first["details"]["top_tokens"])


async def test_a_hundred_users_get_all_their_answers(url: str) -> None:
    texts = [prompt.text for prompt in prompts(None, 100, seed=6)]
    async with aiohttp.ClientSession(url) as session, asyncio.timeout(4 * TIMEOUT_SECONDS):

        async def ask(text: str) -> None:
            body = {"messages": [{"role": "user", "content": text}], "temperature": 0}
            for _ in range(2):
                async with session.post(
                    "/v1/chat/completions", json={**body, "max_tokens": 20}
                ) as answer:
                    assert answer.status == 200
                    assert 0 < (await answer.json())["usage"]["completion_tokens"] <= 20

        await asyncio.gather(*map(ask, texts))


async def test_a_prompt_of_the_maximum_length_is_answered(url: str) -> None:
    async with aiohttp.ClientSession(url) as session, asyncio.timeout(TIMEOUT_SECONDS):
        async with session.get("/info") as answer:
            longest = (await answer.json())["max_input_tokens"]
        for tokens, status in ((longest, 200), (longest + 1, 422)):
            body = {"prompt": [5] * tokens, "max_tokens": 1}
            async with session.post("/v1/completions", json=body) as answer:
                assert answer.status == status


async def test_many_requests_end_once_each_and_disconnects_free_their_cache(url: str) -> None:
    async with aiohttp.ClientSession(url) as session, asyncio.timeout(4 * TIMEOUT_SECONDS):
        dropped = await _metric(session, DROPPED)
        texts = [prompt.text for prompt in prompts(None, 22, seed=5)]
        stay = [_stream(session, text, 8 + index) for index, text in enumerate(texts[:16])]
        leave = [_leave(session, text) for text in texts[16:]]
        ends, _ = await asyncio.gather(asyncio.gather(*stay), asyncio.gather(*leave))
        assert ends == [1] * 16
        while await _metric(session, "tgi_kv_cache_usage"):
            pass
        assert await _metric(session, "tgi_requests_running") == 0
        assert await _metric(session, DROPPED) - dropped == 6


async def _stream(session: aiohttp.ClientSession, text: str, tokens: int) -> int:
    """How many terminal events a whole stream has."""
    async with session.post("/generate_stream", json=_body(text, tokens)) as answer:
        lines = [line async for line in answer.content if line.startswith(b"data:")]
    events = [json.loads(line[5:]) for line in lines]
    assert not any("error" in event for event in events)
    assert events[-1]["generated_text"] is not None
    return sum(event["generated_text"] is not None for event in events)


async def _leave(session: aiohttp.ClientSession, text: str) -> None:
    """Go away after the third event of a long answer."""
    async with session.post("/generate_stream", json=_body(text, 1500)) as answer:
        for _ in range(3):
            assert (await answer.content.readline()).startswith(b"data:")
            assert await answer.content.readline() == b"\n"
        answer.close()


def _body(text: str, tokens: int) -> dict[str, Any]:
    parameters = {"max_new_tokens": tokens, "ignore_eos_token": True}
    return {"inputs": text, "parameters": parameters}


async def _metric(session: aiohttp.ClientSession, name: str) -> float:
    async with session.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    [value] = [line.split()[-1] for line in lines if line.split()[0] == name]
    return float(value)
