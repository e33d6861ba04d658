"""The requests of Open WebUI, as an OpenAI connection of its server and of its page.

Source: its `routers/openai.py` and `utils/payload.py`, and `generateOpenAIChatCompletion` of its
page, which sends the same to a direct connection from another origin.
"""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

USER = {
    "X-OpenWebUI-User-Name": "J%C3%BCrgen Example",
    "X-OpenWebUI-User-Id": "9f2c",
    "X-OpenWebUI-User-Email": "user@example.org",
    "X-OpenWebUI-User-Role": "admin",
    "X-OpenWebUI-Chat-Id": "chat-1",
}
ORIGIN = {"Origin": "http://localhost:8080"}
MODEL = "tgi"
CHAT: dict[str, Any] = {
    "stream": True,
    "model": MODEL,
    "messages": [
        {"role": "system", "content": "Answer shortly."},
        {"role": "user", "content": [{"type": "text", "text": "What does shutil.copy do?"}]},
    ],
    "stream_options": {"include_usage": True},
    "max_tokens": 12,
    "temperature": 0,
    "top_p": None,
    "seed": None,
    "stop": None,
    "frequency_penalty": None,
    "presence_penalty": None,
    "logit_bias": None,
    "reasoning_effort": None,
}
PAGE: dict[str, Any] = {
    "params": {},
    "features": {"image_generation": False, "code_interpreter": False, "web_search": False},
    "variables": {"{{USER_NAME}}": "user", "{{CURRENT_DATE}}": "2026-01-01"},
    "model_item": {"id": MODEL, "name": MODEL, "urlIdx": 0, "direct": True},
    "session_id": "s1",
    "chat_id": "chat-1",
    "id": "m1",
    "background_tasks": {"title_generation": True, "tags_generation": True},
    "tool_servers": [],
    "files": None,
}
"""What the page adds, and its server mostly removes."""


async def events(session: aiohttp.ClientSession, path: str, body: Any) -> list[Any]:
    """The values of a chat's events, up to `[DONE]`."""
    async with session.post(path, json=body) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "text/event-stream"
        lines = [line.strip() async for line in response.content if line.strip()]
    assert lines[-1] == b"data: [DONE]"
    return [json.loads(line.removeprefix(b"data: ")) for line in lines[:-1]]


@pytest.mark.parametrize("base", ["/v1", "/v1/", "//v1"])
@pytest.mark.parametrize("authorization", [{}, {"Authorization": "Bearer "}])
async def test_models_are_listed_whatever_base_and_key(
    pair: str, base: str, authorization: dict[str, str]
) -> None:
    headers = {**USER, **authorization, "Content-Type": "application/json"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{pair}{base}/models") as response,
    ):
        listed = await response.json()
    assert listed["object"] == "list"
    assert all(model["object"] == "model" and model["id"] for model in listed["data"])


@pytest.mark.parametrize("more", [{}, PAGE])
async def test_a_chat_streams_with_usage_whatever_is_added(pair: str, more: Any) -> None:
    async with aiohttp.ClientSession(pair, headers=USER) as session:
        *chunks, last = await events(session, "/v1//chat/completions", CHAT | more)
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert last["usage"]["completion_tokens"] == 12


async def test_a_title_is_generated_without_a_stream(pair: str) -> None:
    task = {"stream": False, "max_completion_tokens": 20, "max_tokens": None}
    body = {key: value for key, value in CHAT.items() if key != "stream_options"} | task
    async with (
        aiohttp.ClientSession(pair, headers=USER) as session,
        session.post("/v1/chat/completions", json=body) as response,
    ):
        answer = await response.json()
    assert response.status == 200, answer
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] <= 20


async def test_the_page_may_ask_from_its_own_origin(pair: str) -> None:
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-openwebui-chat-id",
    }
    async with aiohttp.ClientSession(pair, headers=ORIGIN) as session:
        async with session.options("/v1/chat/completions", headers=asked) as preflight:
            assert preflight.ok
            assert preflight.headers["Access-Control-Allow-Origin"] == "*"
            allowed = preflight.headers["Access-Control-Allow-Headers"].lower()
            assert {"authorization", "content-type"} <= {one.strip() for one in allowed.split(",")}
            assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
        async with session.post("/v1/chat/completions", json=CHAT | PAGE) as response:
            assert response.status == 200
            assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_an_error_is_an_object_that_the_page_can_show(pair: str) -> None:
    async with (
        aiohttp.ClientSession(pair, headers=USER) as session,
        session.post("/v1/chat/completions", json=CHAT | {"temperature": -1}) as response,
    ):
        answer = await response.json()
    assert response.status == 422
    assert answer["error"]["message"]
