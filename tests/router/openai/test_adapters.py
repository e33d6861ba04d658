"""A request's `model` or `adapter_id` chooses an adapter, and adapters can be loaded by name."""

from __future__ import annotations

from typing import Any

import pytest

from router.errors import AdapterNotFound, AdapterRefused
from router.http.access import AccessPolicy
from tests.support.serving import ScriptedDispatcher, serving

NAMES = ("first", "org/second")
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
OPENAI: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {**CHAT, "max_tokens": 5},
}


@pytest.mark.parametrize("path", OPENAI)
@pytest.mark.parametrize(("name", "number"), [("first", 1), ("org/second", 2), ("tgi", 0)])
async def test_the_model_of_a_request_chooses_its_adapter(
    path: str, name: str, number: int
) -> None:
    async with serving(ScriptedDispatcher(adapters=NAMES)) as server:
        response = await server.post(path, {**OPENAI[path], "model": name})
        assert response.status == 200
        assert response.json()["model"] == (name if number else "bigscience/bloom-560m")
        assert [request.adapter for request, _ in server.dispatcher.opened] == [number]


@pytest.mark.parametrize("path", OPENAI)
async def test_a_server_with_adapters_refuses_other_names(path: str) -> None:
    async with serving(ScriptedDispatcher(adapters=NAMES)) as server:
        response = await server.post(path, {**OPENAI[path], "model": "another"})
        assert response.status == 404
        assert "The model does not exist: another" in response.body.decode()
        assert not server.dispatcher.opened


async def test_a_server_without_adapters_accepts_any_name() -> None:
    async with serving() as server:
        response = await server.post("/v1/chat/completions", {**CHAT, "model": "gpt-4"})
        assert (response.status, response.json()["model"]) == (200, "gpt-4")


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
async def test_a_native_request_chooses_by_adapter_id(path: str) -> None:
    async with serving(ScriptedDispatcher(adapters=NAMES)) as server:
        body = {"inputs": "hi", "parameters": {"adapter_id": "org/second"}}
        assert (await server.post(path, body)).status == 200
        assert [request.adapter for request, _ in server.dispatcher.opened] == [2]


async def test_an_unknown_adapter_id_is_a_validation_error() -> None:
    async with serving(ScriptedDispatcher(adapters=NAMES)) as server:
        body = {"inputs": "hi", "parameters": {"adapter_id": "third"}}
        response = await server.post("/generate", body)
        text = "Input validation error: `adapter_id` `third` is not loaded"
        assert response.json() == {"error": text, "error_type": "validation"}
        assert response.status == 422


async def test_adapters_are_listed_with_their_parent() -> None:
    async with serving(ScriptedDispatcher(adapters=NAMES)) as server:
        models = (await server.request("GET", "/v1/models")).json()["data"]
        assert [model["id"] for model in models] == ["bigscience/bloom-560m", *NAMES]
        [base, first, _] = models
        assert "parent" not in base
        assert (first["parent"], first["root"]) == ("bigscience/bloom-560m", "first")
        assert (await server.request("GET", "/v1/models/org/second")).json() == models[2]
        assert (await server.request("GET", "/v1/models/third")).status == 404


async def test_adapters_are_loaded_and_unloaded_by_name() -> None:
    async with serving() as server:
        loaded = await server.post(
            "/v1/load_lora_adapter", {"lora_name": "new", "lora_path": "folder"}
        )
        assert loaded.body == b"Success: LoRA adapter 'new' added successfully."
        unloaded = await server.post("/v1/unload_lora_adapter", {"lora_name": "new"})
        assert unloaded.body == b"Success: LoRA adapter 'new' removed successfully."
        assert server.dispatcher.adapter_calls == [("new", "folder"), ("new",)]


@pytest.mark.parametrize(
    ("path", "body", "error", "status", "code"),
    [
        ("load", {"lora_path": "a"}, AdapterRefused("no"), 400, "InvalidUserInput"),
        ("unload", {}, AdapterNotFound("x"), 404, "NotFoundError"),
        ("load", {"lora_path": "a", "load_inplace": True}, None, 400, "InvalidUserInput"),
        (
            "load",
            {"lora_path": "a", "lora_name": "bigscience/bloom-560m"},
            None,
            400,
            "InvalidUserInput",
        ),
        ("load", {}, None, 422, "validation"),
    ],
)
async def test_refusals_have_vllms_status(
    path: str, body: dict[str, Any], error: Any, status: int, code: str
) -> None:
    async with serving(ScriptedDispatcher(adapter_error=error)) as server:
        response = await server.post(f"/v1/{path}_lora_adapter", {"lora_name": "x", **body})
        assert (response.status, response.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("path", ["load", "unload"])
async def test_loading_needs_the_key(path: str) -> None:
    async with serving(access=AccessPolicy(api_keys=("secret",))) as server:
        assert (await server.post(f"/v1/{path}_lora_adapter", {})).status == 401
        assert not server.dispatcher.adapter_calls
