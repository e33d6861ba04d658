"""Peers: figures from speeds, what is sent over HTTP, and phases from the events of a start."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmark.peers import command, startup
from benchmark.peers.http_peer import child, http_peer, line_with
from benchmark.peers.peer import PeerFailed


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A server that completes by as many tokens as are asked for, at most 3."""

    async def complete(request: web.Request) -> web.Response:
        body = await request.json()
        if body["prompt"] == "refused":
            return web.Response(status=422, text="too long")
        tokens = min(3, body["max_tokens"])
        assert body["temperature"] == 0
        assert body["model"] == "any"
        return web.json_response({"usage": {"completion_tokens": tokens}})

    app = web.Application()
    app.router.add_post("/v1/completions", complete)
    async with TestServer(app) as server:
        yield str(server.make_url(""))


def test_figures_are_medians_of_ratios_within_a_round() -> None:
    speeds = {
        "ours": {1: [10.0, 40.0, 30.0], 8: [100.0] * 3},
        "llama_cpp": {1: [20.0, 20.0, 20.0], 8: [50.0] * 3},
    }
    assert command.figures(speeds, "peers.") == {
        "peers.plain_b1_over_llama_cpp": 1.5,
        "peers.plain_b8_over_llama_cpp": 2.0,
        "peers.ours_b1_tokens_per_second": 30.0,
        "peers.ours_b8_tokens_per_second": 100.0,
    }


def test_no_prompt_begins_like_another() -> None:
    texts = [text for n in range(2) for clients in (1, 8) for text in command.prompts(n, clients)]
    assert len({text.partition(" ")[0] for text in texts}) == len(texts) == 18


async def test_new_tokens_are_counted_by_the_usage_of_each_answer(url: str) -> None:
    async with http_peer(url, {"model": "any"}) as peer:
        assert await peer.complete(["a", "b"], 2) == 4
        assert await peer.complete(["a", "b"], 9) == 6
        with pytest.raises(PeerFailed, match="too long"):
            await peer.complete(["a", "refused"], 2)


async def test_a_child_that_ends_before_its_line_has_failed() -> None:
    async with child(sys.executable, "-c", "print('log'); print('listening on x')") as process:
        assert await line_with(process, "listening on ") == "x"
        with pytest.raises(PeerFailed):
            await line_with(process, "ready")


def test_results_of_several_runs_are_kept_in_one_file(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    command.add_to_file(file, {"a": 1.0, "b": 1.0}, {"float32": {}})
    command.add_to_file(file, {"b": 2.0}, {"bfloat16": {}})
    result = json.loads(file.read_text())
    assert result["figures"] == {"a": 1.0, "b": 2.0}
    assert [sorted(run) for run in result["runs"]] == [["float32", "load"], ["bfloat16", "load"]]


def test_a_phase_lasts_until_the_next_begins() -> None:
    events: list[dict[str, Any]] = [
        {"event": "progress", "message": "joining the shards", "seconds": 2.0},
        {"event": "progress", "message": "loading the target: 1 of 2 MB", "seconds": 3.0},
        {"event": "progress", "message": "loading the target: 2 of 2 MB", "seconds": 3.5},
        {"event": "progress", "source": "router", "message": "tokenizer", "seconds": 4.0},
        {"event": "waiting"},
        {"event": "ready", "message": "Shard ready in 2.9s", "seconds": 2.9},
    ]
    times = ("12.000", "13.000", "13.500", "14.000", "14.500", "15.000")
    events = [
        {**event, "timestamp": f"2026-01-02T03:04:{time}+00:00"}
        for event, time in zip(events, times, strict=True)
    ]
    assert startup.phases(events) == {
        "imports": 2.0,
        "joining_the_shards": 1.0,
        "loading_the_target": 2.0,
    }
