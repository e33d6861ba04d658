"""`/tokenize`: what the model will see, with places in bytes."""

from __future__ import annotations

from tests.support.serving import ScriptedDispatcher, serving


async def test_tokens_are_told_with_the_bytes_that_they_come_from() -> None:
    async with serving() as server:
        response = await server.post("/tokenize", {"inputs": "the 世"})
        assert response.status == 200
        assert response.body.startswith(b'[{"id":256,"text":"th","start":0,"stop":2},')
        tokens = response.json()
        assert [(token["start"], token["stop"]) for token in tokens] == [
            *((0, 2), (2, 3), (3, 4)),
            *((4, 7), (4, 7)),  # one character of three bytes in two tokens
        ]
        assert [token["text"] for token in tokens] == ["th", "e", " ", "世", "世"]


async def test_truncate_and_the_other_parameters_change_nothing() -> None:
    async with serving(ScriptedDispatcher(full=True)) as server:
        body = {"inputs": "abc", "parameters": {"truncate": 1, "temperature": -1.0}}
        assert len((await server.post("/tokenize", body)).json()) == 3
        assert (await server.post("/tokenize", {"inputs": ""})).json() == []


async def test_a_body_of_wrong_types_is_refused() -> None:
    async with serving() as server:
        response = await server.post("/tokenize", {"inputs": ["a"]})
        assert response.status == 422
        assert "inputs: " in response.json()["error"]
