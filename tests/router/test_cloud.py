"""What SageMaker and Vertex AI send."""

from __future__ import annotations

from typing import Any

import pytest

from router.errors import GenerationFailed, Overloaded
from tests.support.serving import ScriptedDispatcher, Token, serving

TEXT = " Hello «世»"


async def test_an_invocation_with_inputs_is_a_request_to_the_root() -> None:
    async with serving() as server:
        for more in ({}, {"stream": True}):
            body = {"inputs": "Say", "parameters": {}, **more}
            invoked = await server.post("/invocations", body)
            assert invoked.body == (await server.post("/", body)).body
            assert invoked.status == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Say"}]}),
        ("/v1/completions", {"prompt": "Say"}),
    ],
)
async def test_an_invocation_with_another_field_is_a_request_to_that_route(
    path: str, body: dict[str, object]
) -> None:
    async with serving() as server:
        told = [(await server.post(each, body)).json() for each in (path, "/invocations")]
        assert [answer["choices"] for answer in told] == [told[0]["choices"]] * 2
        wrong = {**body, "max_tokens": -1}
        told = [(await server.post(each, wrong)).body for each in (path, "/invocations")]
        assert told[0] == told[1]
        assert b'"type":"invalid_request_error"' in told[0]


async def test_an_invocation_of_nothing_known_says_what_is_known() -> None:
    async with serving() as server:
        bodies: tuple[Any, ...] = ({}, [], "text", {"input": "a"})
        for body in bodies:
            response = await server.post("/invocations", body)
            assert response.status == 422
            assert "`inputs`" in response.json()["error"]


async def test_instances_are_answered_in_their_order_with_all_their_parameters() -> None:
    async with serving() as server:
        body = {
            "instances": [
                {"inputs": "Say", "parameters": {"max_new_tokens": 5}},
                {"inputs": "Say", "parameters": {"return_full_text": True, "top_k": 3}},
            ]
        }
        response = await server.post("/vertex", body)
        assert response.json() == {"predictions": [TEXT, "Say" + TEXT]}
        first, second = (request for request, _ in server.dispatcher.opened)
        assert (first.max_new_tokens, first.sampling.temperature) == (5, 0.0)
        assert second.sampling.top_k == 3


async def test_an_instance_may_be_a_chat() -> None:
    async with serving() as server:
        chat = {"messages": [{"role": "user", "content": "Say"}]}
        response = await server.post("/vertex", {"instances": [chat, {"inputs": "Say"}]})
        assert response.json() == {"predictions": [TEXT, TEXT]}
        response = await server.post("/vertex", {"instances": [{"messages": []}]})
        assert response.status == 422
        assert "instances.0" in response.json()["error"]


async def test_a_call_without_instances_is_refused() -> None:
    async with serving() as server:
        response = await server.post("/vertex", {"instances": []})
        assert response.status == 422
        assert response.body == (
            b'{"error":"Input validation error","error_type":"Input validation error"}'
        )


async def test_a_failed_instance_fails_the_call() -> None:
    body = {"instances": [{"inputs": "a"}]}
    async with serving(ScriptedDispatcher(Token(1, "a", -1.0), GenerationFailed("x"))) as server:
        response = await server.post("/vertex", body)
        assert response.status == 500
        assert response.body == (
            b'{"error":"Incomplete generation","error_type":"Incomplete generation"}'
        )
    async with serving(ScriptedDispatcher(refusal=Overloaded())) as server:
        assert (await server.post("/vertex", body)).status == 429


@pytest.mark.parametrize("instance", [{"inputs": ""}, {"inputs": "a", "parameters": {"top_p": 2}}])
async def test_a_broken_rule_in_an_instance_has_its_own_words(instance: object) -> None:
    async with serving() as server:
        response = await server.post("/vertex", {"instances": [{"inputs": "a"}, instance]})
        assert response.status == 422
        assert response.json()["error"].startswith("Input validation error: `")


async def test_vertex_may_choose_its_own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/v1/endpoints/1/deployedModels/2:predict")
    async with serving() as server:
        body = {"instances": [{"inputs": "a"}]}
        response = await server.post("/v1/endpoints/1/deployedModels/2:predict", body)
        assert response.json() == {"predictions": [TEXT]}
