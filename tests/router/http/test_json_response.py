"""A large answer arrives whole, with its length told beforehand."""

from __future__ import annotations

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from router.http.json_response import json_response_streamed

PARTS = [b"[" + b"1," * 600_000, b"2," * 10, b"3]"]


async def test_many_bytes_are_sent_part_by_part_and_counted() -> None:
    async def answer(http: web.Request) -> web.Response:
        return json_response_streamed(PARTS)

    app = web.Application()
    app.router.add_get("/", answer)
    async with TestClient(TestServer(app)) as client:
        response = await client.get("/")
        assert await response.read() == b"".join(PARTS)
        assert response.headers["Content-Length"] == str(sum(map(len, PARTS)))
        assert "Transfer-Encoding" not in response.headers
        assert response.content_type == "application/json"
