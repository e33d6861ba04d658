"""Values that responses repeat are bounded, so that no small answer becomes a large one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.serving import serving

CHATS, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
BODIES: dict[str, dict[str, Any]] = {
    CHATS: {"messages": [{"role": "user", "content": "Say"}]},
    COMPLETIONS: {"prompt": "Say"},
    RESPONSES: {"input": "Say"},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
async def test_a_name_of_a_model_is_bounded(path: str, stream: bool) -> None:
    async with serving() as server:
        for size, status in ((256, 200), (257, 422), (1500, 422)):
            body = {**BODIES[path], "model": "m" * size, "stream": stream}
            response = await server.post(path, body)
            assert response.status == status
    assert response.json()["error"]["message"].endswith(
        "model: String should have at most 256 characters"
    )


@pytest.mark.parametrize(
    ("path", "field"),
    [
        *((path, {"user": "u" * 1000}) for path in BODIES),
        *((path, {"cache_salt": "u" * 1000}) for path in (CHATS, COMPLETIONS)),
        (RESPONSES, {"reasoning": {"effort": "e" * 65}}),
        (RESPONSES, {"text": {"format": {"type": "text", "name": "n" * 257}}}),
        (RESPONSES, {"metadata": {"k": "v" * 513}}),
        (RESPONSES, {"metadata": {"k" * 65: "v"}}),
        (RESPONSES, {"tool_choice": "c" * 1000}),
    ],
)
async def test_other_repeated_values_are_bounded(path: str, field: dict[str, Any]) -> None:
    async with serving() as server:
        response = await server.post(path, {**BODIES[path], **field})
    assert response.status == 422
    assert len(response.body) < 1500
