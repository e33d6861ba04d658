import asyncio
import logging
import re

import pytest

from tests.support.serving import ScriptedDispatcher, Token, serving


@pytest.mark.parametrize("path", ["/nowhere", "/v2/health", "/generate/x", "/nowhere/"])
async def test_an_unknown_path_is_a_json_404(path: str) -> None:
    async with serving() as server:
        response = await server.post(path, {"inputs": "a"})
        assert response.status == 404
        assert response.headers["Content-Type"] == "application/json"
        assert response.body == b'{"error":"Not Found","error_type":"not_found"}'


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/generate", "POST"),
        ("PUT", "/", "GET,HEAD,POST"),
        ("POST", "/info", "GET,HEAD"),
    ],
)
async def test_a_wrong_method_is_a_json_405(method: str, path: str, allowed: str) -> None:
    async with serving() as server:
        response = await server.request(method, path)
        assert response.status == 405
        assert response.headers["Allow"] == allowed
        assert response.body == (
            b'{"error":"Method Not Allowed","error_type":"method_not_allowed"}'
        )


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
async def test_a_request_id_is_echoed_and_passed_on(path: str) -> None:
    async with serving() as server:
        response = await server.post(path, {"inputs": "a"}, headers={"x-request-id": "A.b_c:1-"})
        assert response.headers["x-request-id"] == "A.b_c:1-"
        assert server.dispatcher.opened[0][1] == "A.b_c:1-"


@pytest.mark.parametrize("given", ["", "with space", "x" * 129, "né"])
async def test_an_odd_request_id_is_replaced_by_a_fresh_one(given: str) -> None:
    async with serving() as server:
        response = await server.request("GET", "/nowhere", headers={"x-request-id": given})
        assert re.fullmatch("[0-9a-f]{32}", response.headers["x-request-id"])


@pytest.mark.parametrize("path", ["//generate", "///generate", "//health", "/health//ready"])
async def test_repeated_slashes_are_one(path: str) -> None:
    async with serving() as server:
        if "generate" in path:
            answer = await server.send_raw(
                f"POST {path} HTTP/1.1\nHost: x\nConnection: close\n"
                "Content-Type: application/json\nContent-Length: 14",
                b'{"inputs":"a"}',
            )
            assert answer.endswith('{"generated_text":" Hello «世»"}'.encode())
        else:
            answer = await server.send_raw(f"GET {path} HTTP/1.1\nHost: x\nConnection: close")
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"x-request-id: " in answer
        lost = await server.send_raw("GET //lost HTTP/1.1\nHost: x\nConnection: close")
        assert lost.endswith(b'{"error":"Not Found","error_type":"not_found"}')


async def test_a_fault_of_ours_is_json_without_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(ScriptedDispatcher(KeyError("/secret"))) as server:
        with caplog.at_level(logging.CRITICAL):
            response = await server.post("/generate", {"inputs": "a"})
        assert response.status == 500
        assert response.body == (
            b'{"error":"Incomplete generation","error_type":"incomplete_generation"}'
        )


async def test_stopping_waits_for_answers_that_are_being_written() -> None:
    gate = asyncio.Event()
    script = ScriptedDispatcher(Token(1, "a", -1.0), gate, Token(2, "b", -1.0), ending="length")
    async with asyncio.TaskGroup() as group, serving(script) as server:
        answer = group.create_task(server.post("/generate", {"inputs": "a"}))
        await script.entered.wait()
        gate.set()
        await script.left.wait()
        assert (await answer).status == 200
