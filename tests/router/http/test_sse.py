"""A stream reads the same to every client, however it finds lines and the end."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.http.sse import encode_event
from tests.support.serving import ScriptedDispatcher, Token, serving

LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""Where `str.splitlines` ends a line."""
CHAT = {"messages": [{"role": "user", "content": "Say"}], "stream": True}
STREAMS = {
    "/": {"inputs": "a", "stream": True},
    "/generate_stream": {"inputs": "a"},
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "a", "stream": True},
    "/v1/responses": {"input": "a", "stream": True},
    "/invocations": CHAT,
}


def lax_lines(event: bytes) -> list[str]:
    """The lines that a client sees which decodes first and splits then."""
    return event.decode().splitlines()


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(LINE_ENDS)))
def test_any_text_stays_on_one_line_and_is_the_same_after_parsing(text: str) -> None:
    data, blank = lax_lines(encode_event(orjson.dumps({text: [text]})))
    assert blank == ""
    assert json.loads(data.removeprefix("data: ")) == {text: [text]}


@pytest.mark.parametrize("character", LINE_ENDS)
def test_each_line_end_is_escaped(character: str) -> None:
    event = encode_event(orjson.dumps(f"a{character}b"))
    assert len(lax_lines(event)) == 2
    assert json.loads(event[6:]) == f"a{character}b"


def test_characters_with_similar_bytes_stay_as_they_are() -> None:
    text = "\u0084\u0086\u2027\u202a\u00c2\u0445 世"
    assert encode_event(orjson.dumps(text)) == f'data: "{text}"\n\n'.encode()


def test_a_name_is_a_line_before_the_data() -> None:
    assert encode_event(b"{}", "response.created") == b"event: response.created\ndata: {}\n\n"


@pytest.mark.parametrize("path", STREAMS)
async def test_every_stream_survives_a_client_that_splits_at_unicode_line_ends(path: str) -> None:
    script = ScriptedDispatcher(Token(1, "a\u2028b", -1.0), Token(2, "\x85\u2029", -1.0))
    async with serving(script) as server:
        response = await server.post(path, STREAMS[path])
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    lines = lax_lines(response.body)
    assert all(line == "" or line.startswith(("data: ", "event: ")) for line in lines)
    events = [line[6:] for line in lines if line.startswith("data: {")]
    assert "a\u2028b" in repr_text([json.loads(event) for event in events])


def repr_text(value: object) -> str:
    """All strings of a JSON value, joined."""
    if isinstance(value, str):
        return value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return " ".join(map(repr_text, parts))


@pytest.mark.parametrize("connection", ["", "\nConnection: keep-alive", "\nConnection: close"])
@pytest.mark.parametrize("path", STREAMS)
async def test_a_stream_to_an_old_client_ends_with_the_connection(
    path: str, connection: str
) -> None:
    body = json.dumps(STREAMS[path]).encode()
    head = f"POST {path} HTTP/1.0\nHost: x\nContent-Type: application/json{connection}"
    async with serving() as server:  # send_raw returns when the server closes
        answer = await server.send_raw(f"{head}\nContent-Length: {len(body)}", body)
    headers, _, events = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in headers
    assert b"keep-alive" not in headers
    assert events.endswith(b"\n\n")
    assert events.startswith((b"data: {", b"event: "))


async def test_an_old_client_keeps_its_connection_after_an_answer_of_known_length() -> None:
    head = "GET /health HTTP/1.0\nHost: x\nConnection: keep-alive\n\nGET /health HTTP/1.0\nHost: x"
    async with serving() as server:
        answer = await server.send_raw(head)
    assert answer.count(b"HTTP/1.0 200 OK") == 2
