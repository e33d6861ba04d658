"""The bundled pair behind the real launcher, met by real clients."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from signal import SIGTERM
from typing import Any

import aiohttp
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import ValidationError

from benchmark.demo_prompts import prompts
from tests.conftest import ROOT, SOON, Processes

PROMPT = "<|user|>What does shutil.copy do?<|assistant|>"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of two shards."""
    started = Processes()
    try:
        flags = ("--hostname", "127.0.0.1", "-p", "0", "--num-shard", "2")
        server = started.start(str(ROOT / "launcher.py"), *flags)
        found = re.search(r"http://[\d.:]+", server.line("Connected"))
        assert found
        yield found[0]
        server.signal(SIGTERM)
        assert server.end() == 0
    finally:
        started.end()


def test_the_hub_client_streams_the_text_that_it_gets_whole(url: str) -> None:
    client = InferenceClient(base_url=url)
    whole: Any = client.text_generation(PROMPT, max_new_tokens=40, details=True)
    events = list(client.text_generation(PROMPT, max_new_tokens=40, details=True, stream=True))
    assert [e.token.id for e in events] == [token.id for token in whole.details.tokens]
    assert events[-1].generated_text == whole.generated_text
    assert events[-1].details
    assert events[-1].details.generated_tokens == len(events)


async def test_the_async_hub_client_streams_the_text_that_it_gets_whole(url: str) -> None:
    async with AsyncInferenceClient(base_url=url) as client:
        whole = await client.text_generation(PROMPT, max_new_tokens=40, return_full_text=False)
        stream = await client.text_generation(PROMPT, max_new_tokens=40, details=True, stream=True)
        pieces = [event.token.text async for event in stream if not event.token.special]
    assert "".join(pieces) == whole


def test_a_prompt_that_is_too_long_is_a_validation_error(url: str) -> None:
    with pytest.raises(ValidationError, match="Given: 6000 `inputs` tokens"):
        InferenceClient(base_url=url).text_generation("word " * 3000, max_new_tokens=1)


async def test_rules_are_told_in_tgis_order_up_to_the_grammar(url: str) -> None:
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


async def test_a_request_tells_how_it_stands_and_is_cancelled_by_its_id(url: str) -> None:
    name = {"x-request-id": "mine"}
    async with aiohttp.ClientSession(url) as session, asyncio.timeout(SOON):
        body = _body(PROMPT, 1500)
        async with session.post("/generate_stream", json=body, headers=name) as stream:
            assert (await stream.content.readline()).startswith(b'data: {"index":1,')
            async with session.get("/requests/mine") as answer:
                [told] = (await answer.json())["sequences"]
            assert told["state"] == "running"
            assert told["emitted_tokens"] > 0
            assert told["attained_service"] > 0
            async with session.delete("/requests/mine") as answer:
                assert await answer.json() == {"request_id": "mine", "cancelled": 1}
            assert (await stream.content.read()).endswith(b'"error_type":"cancelled"}\n\n')
        async with session.get("/requests/mine") as answer:
            assert answer.status == 404


async def test_many_requests_end_once_each_and_leavers_free_their_cache(url: str) -> None:
    async with aiohttp.ClientSession(url) as session, asyncio.timeout(4 * SOON):
        texts = [prompt.text for prompt in prompts(None, 84, seed=5)]
        stay = [_stream(session, text, 8 + index) for index, text in enumerate(texts[:64])]
        leave = [_leave(session, text) for text in texts[64:]]
        ends, _ = await asyncio.gather(asyncio.gather(*stay), asyncio.gather(*leave))
        assert ends == [1] * 64
        while await _metric(session, "tgi_kv_cache_usage"):
            pass
        assert await _metric(session, "tgi_requests_running") == 0
        assert await _metric(session, 'tgi_request_failure{err="dropped"}') == 20


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
