"""What HTTP itself gets wrong is answered in JSON, with one line of the log at most."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import zlib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import EngineFault
from router.http.access import AccessPolicy
from router.http.connections import MAX_HEADER_BYTES, MAX_URI_BYTES
from router.http.content_encoding import Coding, decompress
from router.http.http_errors import BadRequest, PayloadTooLarge
from tests.support.serving import RunningServer, ScriptedDispatcher, Token, serving

HELLO = b'{"inputs":"a"}'
JSON = {"Content-Type": "application/json"}


def raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


async def status_and_type(server: RunningServer, head: str, body: bytes = b"") -> tuple[int, str]:
    """The status and the `error_type` of the JSON that answers a request in raw bytes."""
    answer = await server.send_raw(head, body)
    headers, _, text = answer.partition(b"\r\n\r\n")
    assert b"Content-Type: application/json" in headers
    assert b"x-request-id: " in headers
    return int(answer.split(b" ", 2)[1]), json.loads(text)["error_type"]


@pytest.mark.parametrize(
    "path",
    ["/" + "a" * MAX_URI_BYTES, "/v1/models/" + "a" * 9000, "/health?q=" + "%41" * 5000],
)
async def test_a_uri_that_is_too_long_is_a_414(path: str) -> None:
    async with serving() as server:
        head = f"GET {path} HTTP/1.1\nHost: x"
        assert await status_and_type(server, head) == (414, "uri_too_long")


async def test_the_longest_uri_and_header_are_served() -> None:
    path = "/health?" + "a" * (MAX_URI_BYTES - 8)
    async with serving() as server:
        assert (await server.request("GET", path)).status == 200
        headers = {"X": "y" * (MAX_HEADER_BYTES - 1)}
        assert (await server.request("GET", "/health", headers=headers)).status == 200


@pytest.mark.parametrize(
    "header",
    [
        "X: " + "y" * (MAX_HEADER_BYTES + 1),
        "Authorization: Bearer " + "y" * 20000,
        "Cookie: " + "/a" * 5000,
        "y" * 9000 + ": x",
        "\n".join(f"x-{number}: y" for number in range(200)),
    ],
)
async def test_headers_that_are_too_large_are_a_431(header: str) -> None:
    async with serving() as server:
        head = f"GET /health HTTP/1.1\nHost: x\n{header}"
        assert await status_and_type(server, head) == (431, "headers_too_large")


LONG = "a" * 9000
HUGE_HEADER = "X: " + "y" * 9000


@pytest.mark.parametrize(
    ("path", "is_openai"),
    [
        ("/v1/chat/completions", True),
        ("//v1/models/", True),
        ("/v1", True),
        ("/v1/nowhere", True),
        ("/v1x", False),
        ("/generate", False),
        ("/", False),
        ("/tokenize/v1", False),
    ],
)
@pytest.mark.parametrize(
    ("query", "header", "status"),
    [
        ("?" + LONG, "X: y", 414),
        ("", HUGE_HEADER, 431),
        ("", "Expect: junk", 417),
        ("", "no colon", 400),
    ],
)
async def test_what_http_gets_wrong_has_the_form_of_the_paths_api(
    path: str, is_openai: bool, query: str, header: str, status: int
) -> None:
    async with serving() as server:
        answer = await server.send_raw(f"POST {path}{query} HTTP/1.1\nHost: x\n{header}")
    head, _, text = answer.partition(b"\r\n\r\n")
    error: dict[str, Any] = json.loads(text)
    assert int(head.split(b" ", 2)[1]) == status
    assert is_openai == isinstance(error["error"], dict)
    assert not is_openai or error["error"]["code"] == error["error_type"]


async def test_the_form_is_that_of_the_last_request_of_a_connection() -> None:
    requests = [
        "GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /health?{LONG} HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(requests[0].encode())
        head = await reader.readuntil(b"\r\n\r\n")
        [length] = re.findall(rb"Content-Length: (\d+)", head)
        await reader.readexactly(int(length))
        writer.write(requests[1].encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error_type"] == "uri_too_long"
    assert isinstance(json.loads(answer.partition(b"\r\n\r\n")[2])["error"], str)


@pytest.mark.parametrize("expectation", ["junk", "100-continue, x", "200-ok", '"100-continue"'])
@pytest.mark.parametrize("path", ["/generate", "/nowhere", "/v1/chat/completions"])
async def test_an_unknown_expectation_is_a_417(
    path: str, expectation: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(access=AccessPolicy(api_keys=("k",))) as server:
        head = f"POST {path} HTTP/1.1\nHost: x\nExpect: {expectation}\nContent-Length: 14"
        assert await status_and_type(server, head, HELLO) == (417, "expectation_failed")
    assert log_lines(caplog) == []


async def test_a_client_that_expects_to_continue_is_told_to() -> None:
    head = (
        "POST /generate HTTP/1.1\nHost: x\nExpect: 100-Continue\nConnection: close\n"
        "Content-Type: application/json\nContent-Length: 14"
    )
    async with serving() as server:
        answer = await server.send_raw(head, HELLO)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(HELLO, mtime=0)),
        ("GZip", gzip.compress(HELLO[:5], mtime=0) + gzip.compress(HELLO[5:], mtime=0)),
        ("x-gzip", gzip.compress(HELLO, mtime=0)),
        ("deflate", zlib.compress(HELLO)),
        ("deflate", raw_deflate(HELLO)),
        ("identity", HELLO),
        ("", HELLO),
    ],
)
async def test_a_compressed_body_is_read(coding: str, body: bytes) -> None:
    async with serving() as server:
        headers = {**JSON, "Content-Encoding": coding}
        response = await server.post("/generate", data=body, headers=headers)
    assert response.status == 200


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "br;q=1", "junk"])
@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_another_content_coding_is_a_415_that_names_the_known_ones(
    path: str, coding: str
) -> None:
    async with serving() as server:
        headers = {**JSON, "Content-Encoding": coding}
        response = await server.post(path, data=HELLO, headers=headers)
    assert response.status == 415
    assert response.json()["error_type"] == "unsupported_content_encoding"
    assert response.headers["Accept-Encoding"] == "gzip, deflate, identity"


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", HELLO),
        ("gzip", gzip.compress(HELLO, mtime=0)[:-1]),
        ("gzip", gzip.compress(HELLO, mtime=0) + b"x"),
        ("gzip", gzip.compress(HELLO, mtime=0)[:12] + b"xxxx"),
        ("deflate", HELLO),
        ("deflate", zlib.compress(HELLO)[:-1]),
        ("deflate", zlib.compress(HELLO) + b"x"),
    ],
)
async def test_a_body_that_is_not_of_its_coding_is_a_400(
    coding: str, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as server:
        headers = {**JSON, "Content-Encoding": coding}
        response = await server.post("/generate", data=body, headers=headers)
    assert (response.status, response.json()) == (
        400,
        {
            "error": f"Bad request: the body is not valid {coding}",
            "error_type": "bad_request",
        },
    )
    assert log_lines(caplog) == []


async def test_a_broken_body_without_the_key_is_a_401(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(access=AccessPolicy(api_keys=("k",))) as server:
        headers = {**JSON, "Content-Encoding": "gzip"}
        response = await server.post("/generate", data=b"junk", headers=headers)
    assert response.status == 401
    assert log_lines(caplog) == []


async def test_a_small_body_may_not_become_a_large_one() -> None:
    async with serving() as server:
        headers = {**JSON, "Content-Encoding": "gzip"}
        response = await server.post("/generate", data=gzip.compress(b" " * 10**6), headers=headers)
    assert response.status == 413


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_decompressing_returns_the_body(body: bytes, coding: Coding) -> None:
    encode = gzip.compress if coding == "gzip" else zlib.compress
    assert decompress(encode(body), coding, 300) == body
    if body:
        with pytest.raises(PayloadTooLarge):
            decompress(encode(body), coding, len(body) - 1)


@given(st.binary(max_size=300), st.sampled_from(["gzip", "deflate"]))
def test_any_bytes_decompress_or_are_refused(body: bytes, coding: Coding) -> None:
    with suppress(BadRequest, PayloadTooLarge):
        assert len(decompress(body, coding, 100)) <= 100


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/v1/completions"])
@pytest.mark.parametrize("first", [(), (Token(1, "a", -1.0),)])
async def test_an_unexpected_failure_is_one_line_of_the_log(
    path: str, first: tuple[Token, ...], caplog: pytest.LogCaptureFixture
) -> None:
    script = ScriptedDispatcher(*first, KeyError("two\nlines"))
    body = {"inputs": "a", "prompt": "a"}
    async with serving(script) as server:
        if path == "/generate_stream":  # the stream has begun: the connection is cut
            head = f"POST {path} HTTP/1.1\nHost: x\nContent-Type: application/json"
            answer = await server.send_raw(f"{head}\nContent-Length: 14", HELLO)
            assert not answer.endswith(b"0\r\n\r\n")
        else:
            assert (await server.post(path, body)).status == 500
    [line] = log_lines(caplog)
    assert "\n" not in line
    assert line.count(path) == 1
    assert "KeyError" in line
    assert "serving.py:" in line


@pytest.mark.parametrize("path", ["/generate", "/v1/completions"])
async def test_a_request_that_is_given_up_is_a_500_in_the_form_of_its_route(path: str) -> None:
    text = "The model failed each time it ran this request; do not send it again"
    async with serving(ScriptedDispatcher(EngineFault())) as server:
        response = await server.post(path, {"inputs": "a", "prompt": "a"})
    assert (response.status, response.headers["x-should-retry"]) == (500, "false")
    fields = {"message": text, "type": "server_error", "code": "engine_fault"}
    error = text if path == "/generate" else fields
    assert response.json() == {"error": error, "error_type": "engine_fault"}


def log_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a server writes at its default level."""
    return [
        record.getMessage() + (record.exc_text or "")
        for record in caplog.records
        if record.levelno >= logging.INFO and record.name.partition(".")[0] != "hypothesis"
    ]


@pytest.mark.parametrize(
    "path",
    ["/generate/", "/generate//", "//generate/", "/v1/completions/", "/v1//completions//", "/?a=b"],
)
async def test_a_slash_at_the_end_changes_nothing(path: str) -> None:
    body = b'{"inputs":"a","prompt":"a"}'
    head = f"POST {path} HTTP/1.1\nHost: x\nConnection: close\nContent-Type: application/json"
    async with serving() as server:
        answer = await server.send_raw(f"{head}\nContent-Length: {len(body)}", body)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("path", ["/v1/models/", "/health/", "/info/", "/docs/", "/ping/"])
async def test_a_page_with_a_slash_at_its_end_is_the_same(path: str) -> None:
    async with serving() as server:
        response = await server.request("GET", path)
        assert (response.status, response.body) == (
            200,
            (await server.request("GET", path.rstrip("/"))).body,
        )


@pytest.mark.parametrize(
    "name",
    [
        *("bigscience/bloom-560m", "bigscience%2Fbloom-560m", "bigscience/bloom-560m/", "tgi"),
        "bigscience//bloom-560m",
    ],
)
async def test_the_served_model_is_described_by_its_name(name: str) -> None:
    async with serving() as server:
        response = await server.request("GET", f"/v1/models/{name}")
        listed = (await server.request("GET", "/v1/models")).json()["data"]
    assert [response.json()] == listed
    assert response.status == 200


@pytest.mark.parametrize("name", ["bloom-560m", "gpt-4", "bigscience", "BIGSCIENCE/BLOOM-560M"])
async def test_another_model_is_not_found(name: str) -> None:
    async with serving() as server:
        response = await server.request("GET", f"/v1/models/{name}")
    assert response.status == 404
    assert response.json()["error"] == {
        "message": f"The model does not exist: {name}",
        "type": "invalid_request_error",
        "code": "model_not_found",
    }
