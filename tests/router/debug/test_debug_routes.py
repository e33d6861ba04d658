"""`/debug/state` over real connections."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from router.debug.debug_routes import DEBUG_OPERATIONS
from router.debug.state_feed import MAX_SUBSCRIBERS
from router.http.access import AccessPolicy
from router.observability.server_state import ServerState
from tests.support.serving import STATE, RunningServer, ScriptedDispatcher, serving

KEY = AccessPolicy(api_keys=("secret",))
HEAD = b"GET /debug/state HTTP/1.1\r\nHost: x\r\n\r\n"


async def events(server: RunningServer, count: int) -> list[Any]:
    """The first `count` events of a stream."""
    found: list[Any] = []
    async with server.session.get(server.base_url + "/debug/state") as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        async for line in response.content:
            if line.startswith(b"data: "):
                found.append(json.loads(line[6:]))
            if len(found) == count:
                return found
    return found


async def test_the_stream_sends_one_state_after_the_other() -> None:
    dispatcher = ScriptedDispatcher()
    async with serving(dispatcher) as server:
        for event in await events(server, 2):
            assert ServerState.model_validate(event) == STATE


async def test_the_stream_needs_the_key_like_every_other_route() -> None:
    async with serving(access=KEY) as server:
        answer = await server.request("GET", "/debug/state")
        assert (answer.status, answer.json()["error_type"]) == (401, "unauthorized")
        good = {"Authorization": "Bearer secret"}
        async with server.session.get(server.base_url + "/debug/state", headers=good) as response:
            assert response.status == 200


async def test_a_subscriber_too_many_is_refused_and_a_place_becomes_free_at_a_disconnect() -> None:
    async with serving() as server:
        streams = [
            await asyncio.open_connection("127.0.0.1", server.port) for _ in range(MAX_SUBSCRIBERS)
        ]
        for reader, writer in streams:
            writer.write(HEAD)
            await reader.readuntil(b"data: ")
        refused = await server.request("GET", "/debug/state")
        assert (refused.status, refused.json()["error_type"]) == (429, "overloaded")
        for _, writer in streams:
            writer.close()
            await writer.wait_closed()
        while (await server.request("HEAD", "/health")).status == 200:
            async with server.session.get(server.base_url + "/debug/state") as response:
                if response.status == 200:
                    break


async def test_a_subscriber_that_does_not_read_delays_no_other() -> None:
    async with serving() as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port, limit=1)
        writer.write(HEAD)
        assert len(await events(server, 3)) == 3
        writer.transport.abort()


async def test_the_stream_ends_when_the_server_has_drained() -> None:
    dispatcher = ScriptedDispatcher()
    async with (
        serving(dispatcher) as server,
        server.session.get(server.base_url + "/debug/state") as response,
    ):
        await response.content.readuntil(b"data: ")
        dispatcher.reason = "draining"
        assert (await response.content.read()).endswith(b"\n\n")


async def test_only_get_is_allowed() -> None:
    async with serving() as server:
        for method in ("HEAD", "POST"):
            assert (await server.request(method, "/debug/state")).status == 405


def test_the_event_is_documented() -> None:
    assert [operation.event_model for operation in DEBUG_OPERATIONS] == [ServerState]
