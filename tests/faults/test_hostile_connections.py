"""Connections that say too little, too slowly or too much leave nothing behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from router.http.gateway import Timeouts
from tests.support.serving import RunningServer, ScriptedDispatcher, Token, serving

HEAD = b"POST /generate_stream HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = b'{"inputs":"a"}'
WHOLE = HEAD + b"Content-Length: 14\r\n\r\n" + BODY
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
PHASES = {
    "silent": b"",
    "in the head": HEAD[:30],
    "before the body": HEAD + b"Content-Length: 14\r\n\r\n",
    "in the body": HEAD + b"Content-Length: 14\r\n\r\n" + BODY[:5],
    "in a chunk": CHUNKED + b"5\r\n{",
    "in the stream": WHOLE,
}


async def open_connections(server: RunningServer) -> int:
    """How many connections the server says it has, other than the one that asks."""
    text = (await server.request("GET", "/metrics")).body.decode()
    [line] = [line for line in text.splitlines() if line.startswith("tgi_connections ")]
    return int(float(line.split()[1])) - 1


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until_none_is_open(server: RunningServer) -> None:
    while await open_connections(server):
        pass


@pytest.mark.parametrize("phase", PHASES)
async def test_clients_that_drop_their_connection_leave_nothing_behind(phase: str) -> None:
    script = ScriptedDispatcher(Token(1, "a", -1.0), asyncio.Event())
    async with serving(script) as server:
        await until_none_is_open(server)
        tasks, files = len(asyncio.all_tasks()), open_files()
        for _ in range(5):
            pairs = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(20)]
            for _, writer in pairs:
                writer.write(PHASES[phase])
            while await open_connections(server) < len(pairs):
                pass
            if phase == "in the stream":
                for reader, _ in pairs:
                    await reader.readuntil(b"data:")
            for _, writer in pairs:
                writer.transport.abort()
            del pairs
            await until_none_is_open(server)
        assert abs(len(asyncio.all_tasks()) - tasks) <= 2
        assert abs(open_files() - files) <= 2


async def test_half_open_connections_are_closed_while_others_are_served() -> None:
    timeouts = Timeouts(body=0.2, keepalive=0.2, linger=0.05)
    async with serving(timeouts=timeouts) as server:
        pairs = [
            (await asyncio.open_connection("127.0.0.1", server.port), PHASES[phase])
            for phase in list(PHASES)[:5]
            for _ in range(10)
        ]
        for (_, writer), data in pairs:
            writer.write(data)
        assert (await server.post("/generate", {"inputs": "a"})).status == 200
        answers = [await reader.read() for (reader, _), _ in pairs]
        for (_, writer), _ in pairs:
            writer.close()
        assert answers[:20] == [b""] * 20, "without a whole head there is no request to answer"
        assert all(answer.startswith(b"HTTP/1.1 408 ") for answer in answers[20:])
        assert (await server.post("/generate", {"inputs": "a"})).status == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (CHUNKED + b"1\r\n \r\n" * 20_000, 413),
        (CHUNKED + b"e\r\n" + BODY + b"\r\n0\r\n" + b"x: y\r\n" * 20_000 + b"\r\n", 431),
        (HEAD + b"X: " + b"y" * 9000 + b"\r\n\r\n", 431),
        (HEAD + b"".join(b"x-%d: y\r\n" % number for number in range(129)) + b"\r\n", 431),
        (CHUNKED + b"-1\r\n", 400),
        (CHUNKED + b"ffffffffffffffffff\r\n{", 400),
        (HEAD + b"Content-Length: 3000\r\n\r\n", 413),
    ],
    ids=["chunks", "trailers", "header", "headers", "negative", "huge chunk", "declared"],
)
async def test_too_much_of_anything_is_refused(data: bytes, status: int) -> None:
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(data)
        line = await reader.readline()
        writer.transport.abort()
        assert line.split()[1] == b"%d" % status
        assert server.dispatcher.opened == []
        assert (await server.post("/generate", {"inputs": "a"})).status == 200
