"""What `huggingface_hub`'s clients do with this server."""

import asyncio
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import GenerationError, OverloadedError, ValidationError

from router.errors import GenerationFailed
from tests.support.serving import (
    DRAFTING_SERVER_INFO,
    RunningServer,
    ScriptedDispatcher,
    Token,
    serving,
)

TEXT = " Hello «世»"


def whole(server: RunningServer, **parameters: Any) -> Any:
    client = InferenceClient(server.base_url)
    return client.text_generation("Say", **parameters)


def streamed(server: RunningServer, **parameters: Any) -> list[Any]:
    client = InferenceClient(server.base_url)
    return list(client.text_generation("Say", stream=True, **parameters))


async def test_the_client_gets_the_text() -> None:
    async with serving() as server:
        answer = await asyncio.to_thread(whole, server, max_new_tokens=3, return_full_text=False)
        assert answer == TEXT
        assert server.dispatcher.opened[0][0].max_new_tokens == 3


async def test_the_client_gets_the_details() -> None:
    async with serving() as server:
        answer = await asyncio.to_thread(whole, server, details=True, do_sample=True, seed=3)
        assert answer.details.finish_reason == "eos_token"
        assert answer.details.seed == 3
        assert [token.id for token in answer.details.tokens] == [15, 16, 2]


async def test_the_client_reads_the_details_of_a_server_that_drafts() -> None:
    async with serving(server_info=DRAFTING_SERVER_INFO) as server:
        answer = await asyncio.to_thread(whole, server, details=True)
        assert answer.details.generated_tokens == 3
        assert (answer.details.queue_time, answer.details.attained_service) == (0.25, 0.625)
        assert answer.details.preemptions == {"keep": 1, "swap": 2, "recompute": 0}
        events = await asyncio.to_thread(streamed, server, details=True)
        assert events[-1].details.generated_tokens == 3
        assert events[-1].details.accepted == 2


async def test_the_client_streams_text() -> None:
    async with serving() as server:
        assert await asyncio.to_thread(streamed, server) == [" Hello", " «世»", "</s>"]


async def test_the_client_streams_details() -> None:
    async with serving() as server:
        events = await asyncio.to_thread(streamed, server, details=True)
        assert [event.token.id for event in events] == [15, 16, 2]
        assert events[-1].details.generated_tokens == 3
        assert events[-1].generated_text == "Say" + TEXT


async def test_the_async_client_gets_text_and_streams() -> None:
    async with serving() as server, AsyncInferenceClient(server.base_url) as client:
        assert await client.text_generation("Say", return_full_text=False) == TEXT
        events = await client.text_generation("Say", stream=True, details=True)
        assert [event.token.text async for event in events] == [" Hello", " «世»", "</s>"]


@pytest.mark.parametrize("call", [whole, streamed])
async def test_a_broken_rule_is_a_validation_error(call: Any) -> None:
    async with serving() as server:
        with pytest.raises(ValidationError, match="`temperature` must be strictly positive"):
            await asyncio.to_thread(call, server, temperature=-1.0)


@pytest.mark.parametrize("call", [whole, streamed])
async def test_a_full_server_is_an_overloaded_error(call: Any) -> None:
    async with serving(ScriptedDispatcher(full=True)) as server:
        with pytest.raises(OverloadedError, match="Model is overloaded"):
            await asyncio.to_thread(call, server)


@pytest.mark.parametrize("call", [whole, streamed])
async def test_a_failure_is_a_generation_error_also_in_a_stream(call: Any) -> None:
    script = ScriptedDispatcher(Token(1, "a", -1.0), GenerationFailed("no usable result"))
    async with serving(script) as server:
        with pytest.raises(GenerationError, match="no usable result"):
            await asyncio.to_thread(call, server, details=True)
