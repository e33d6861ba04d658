"""LOG_LEVEL is a filter as TGI has it."""

from __future__ import annotations

import logging

import pytest

from router.log_levels import ROUTER_TARGETS, SHARD_TARGETS, effective_level
from tests.support.serving import ScriptedDispatcher, serving


@pytest.mark.parametrize(
    ("directives", "expected"),
    [
        ("", logging.INFO),
        ("debug", logging.DEBUG),
        ("WARN", logging.WARNING),
        ("info,text_generation_router=debug", logging.DEBUG),
        ("error,h2=trace", logging.ERROR),
        ("router = error", logging.ERROR),
        ("nonsense", logging.INFO),
        ("=,=x,,[span{field=1}]=debug", logging.INFO),
    ],
)
def test_the_routers_part_wins_and_nonsense_changes_nothing(directives: str, expected: int) -> None:
    assert effective_level(directives, ROUTER_TARGETS) == expected


def test_a_shard_has_a_part_of_its_own() -> None:
    directives = "warn,text_generation_router=debug,text_generation_server=error"
    assert effective_level(directives, SHARD_TARGETS) == logging.ERROR
    assert effective_level("warn,text_generation_router=debug", SHARD_TARGETS) == logging.WARNING


async def test_a_line_tells_how_a_request_ended_and_never_what_it_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(ScriptedDispatcher()) as server:
        with caplog.at_level(logging.DEBUG, logger="router"):
            head = {"x-request-id": "mine"}
            await server.post("/generate_stream", {"inputs": "secret"}, headers=head)
            await server.post("/a%0Ab" + "c" * 300, {"inputs": "secret"}, headers=head)
    first, second = (record.getMessage() for record in caplog.records if record.name == "router")
    assert first.startswith("request mine: POST /generate_stream 200 in ")
    assert second.startswith("request mine: POST /a%0Abccc")
    assert len(second) < 300
    assert "secret" not in caplog.text
