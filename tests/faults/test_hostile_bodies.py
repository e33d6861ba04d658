"""Bodies that have crashed or blocked other servers are refused or answered, never a 5xx."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from tests.support.serving import RunningServer, ScriptedDispatcher, serving

NEVER_INTEGERS = ("-1", "18446744073709551616", "1" + "0" * 300, "true", '"5"', "1.5")
"""JSON values that no integer field accepts: negative, over 64 bits, or of another type."""
LARGE = ("2147483648", "9223372036854775807", "9223372036854775808")
PROMPTS = ('""', '" "', '"\\u0000"', "[]", "[[]]", "[[], []]", '"\\ud800"', '"<s>"', "{}")
BOMBS = {
    "[" * 900 + "]" * 900: 422,
    '{"a":' * 300 + "1" + "}" * 300: 422,
    "NaN": 400,
    "Infinity": 400,
    "-Infinity": 400,
    '"\\ud800"': 400,
    "01": 400,
    "[1,]": 400,
}
"""JSON values, or what only looks like one, and the status of a body that has one anywhere."""
FIELDS = {
    "/generate": (
        '{"inputs":"a","parameters":{%s}}',
        *("best_of", "top_n_tokens", "max_new_tokens", "truncate", "seed", "min_new_tokens"),
        *("expected_new_tokens", "speculate"),
    ),
    "/v1/completions": (
        '{"prompt":"a",%s}',
        *("n", "best_of", "max_tokens", "logprobs", "min_tokens", "truncate_prompt_tokens"),
    ),
    "/v1/chat/completions": (
        '{"messages":[{"role":"user","content":"a"}],%s}',
        *("n", "top_logprobs", "max_tokens", "max_completion_tokens", "min_tokens"),
    ),
}
"""By route: a body with a place for a field, and the names of integer fields."""


async def status_of(server: RunningServer, path: str, body: str) -> int:
    headers = {"Content-Type": "application/json"}
    return (await server.post(path, data=body.encode(), headers=headers)).status


@pytest.mark.parametrize("path", FIELDS)
async def test_numbers_out_of_range_are_refused_before_anything_runs(path: str) -> None:
    body, *names = FIELDS[path]
    async with serving() as server:
        for name in names:
            for value in NEVER_INTEGERS:
                status = await status_of(server, path, body % f'"{name}":{value}')
                assert (name, value, status) == (name, value, 422)
        assert server.dispatcher.opened == []
        for name in names:
            assert await status_of(server, path, body % f'"{name}":null') == 200
            for value in LARGE:
                assert await status_of(server, path, body % f'"{name}":{value}') in (200, 422)
        most = max((request.best_of for request, _ in server.dispatcher.opened), default=1)
        assert most <= 2, "no request makes many sequences"


async def test_a_prompt_of_any_kind_is_answered_or_refused() -> None:
    chat = '{"messages":[{"role":"user","content":%s}]}'
    bodies = {
        "/generate": '{"inputs":%s}',
        "/generate_stream": '{"inputs":%s}',
        "/tokenize": '{"inputs":%s}',
        "/v1/completions": '{"prompt":%s}',
        "/v1/chat/completions": chat,
        "/v1/responses": '{"input":%s}',
    }
    async with serving() as server:
        for path, body in bodies.items():
            for prompt in PROMPTS:
                status = await status_of(server, path, body % prompt)
                assert status in (200, 400, 422), (path, prompt)
        assert await status_of(server, "/v1/chat/completions", '{"messages":[]}') == 422
        assert await status_of(server, "/v1/completions", '{"prompt":[]}') == 422


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
async def test_json_bombs_are_refused_wherever_they_hide(path: str) -> None:
    async with serving() as server:
        for value, status in BOMBS.items():
            body = f'{{"inputs":"a","prompt":"a","messages":[],"unknown":{value}}}'
            assert await status_of(server, path, body) == status, value[:10]
        assert server.dispatcher.opened == []


async def test_links_in_prompts_open_no_connection() -> None:
    connections: list[object] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.close()

    target = await asyncio.start_server(accept, "127.0.0.1", 0)
    link = f"http://127.0.0.1:{target.sockets[0].getsockname()[1]}/a.png"
    image = {"type": "image_url", "image_url": {"url": link}}
    text: dict[str, Any] = {"type": "text", "text": f"![]({link})"}
    schema = {"type": "json_object", "value": {"properties": {}, "$ref": link}}
    async with target, serving(ScriptedDispatcher()) as server:
        for path, body in (
            ("/generate", {"inputs": f"![]({link})"}),
            ("/generate", {"inputs": "a", "parameters": {"grammar": schema}}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": [text, image]}]}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": [text]}]}),
        ):
            response = await server.post(path, data=orjson.dumps(body), headers=JSON)
            assert response.status in (200, 422)
    assert connections == []


JSON = {"Content-Type": "application/json"}
