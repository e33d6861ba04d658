"""Shards that die or hang under the real launcher: callers see a pause, and the same answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from signal import SIGKILL, SIGSTOP, SIGTERM
from typing import Any

import aiohttp
import pytest

from benchmark.faults.streams import Answers, Progress, is_same_answer, stream_all, streaming
from benchmark.faults.workload import SHARED_PREFIX, bodies
from benchmark.server.watched_server import child_pids
from shard.launch.restart_policy import MAX_RESTARTS
from tests.support.families import byte_level
from tests.support.nightly import nightly
from tests.support.paths import ROOT
from tests.support.processes import Processes, Running

LIMIT_SECONDS = 240.0
"""Bound of one test; restarts of the demo pair take a few seconds each."""
ROWS = ("--max-batch-size", "6", "--max-batch-total-tokens", "2048", "--max-total-tokens", "1024")
ENDLESS = {
    "inputs": "some words",
    "parameters": {"max_new_tokens": 300, "ignore_eos": True, "details": True},
}
"""Its answer has 300 tokens."""


def start(processes: Processes, *flags: str) -> Running:
    address = ("--hostname", "127.0.0.1", "-p", "0")
    return processes.start(str(ROOT / "launcher.py"), *address, *flags)


@pytest.fixture
def echo(tmp_path: Path) -> Sequence[str]:
    """Flags of a server with the echo engine, whose Steps last 10 ms."""
    byte_level().save(str(tmp_path / "tokenizer.json"))
    return ("--echo", "--echo-seconds", "0.01", "--model-id", str(tmp_path))


def shards(server: Running) -> list[int]:
    return child_pids(server.process.pid, "shard")


async def until_restarted(server: Running) -> None:
    await asyncio.to_thread(server.line, "Shards restarted in ")


async def unready_reason(url: str) -> str:
    """Wait until the server is not ready, and return why."""
    async with aiohttp.ClientSession(url) as session:
        while True:
            async with session.get("/health/ready") as response:
                if response.status == 503:
                    reason: str = (await response.json())["reason"]
                    return reason


def assert_same(answers: Answers, undisturbed: Answers) -> None:
    for answer, expected in zip(answers, undisturbed, strict=True):
        assert expected[-1]["details"]["finish_reason"]
        assert is_same_answer(answer, expected), (answer, expected)


async def generate(url: str, body: dict[str, Any]) -> dict[str, Any]:
    async with (
        aiohttp.ClientSession(url) as session,
        session.post("/generate", json=body) as response,
    ):
        assert response.status == 200, await response.text()
        return dict(await response.json())


def logprobs(answer: dict[str, Any]) -> list[float]:
    """Log-probabilities of the prompt's tokens; the first has none."""
    none, *others = (token["logprob"] for token in answer["details"]["prefill"])
    assert none is None
    return others


@pytest.mark.parametrize(
    ("world", "kills"), [(1, (0.4,)), nightly(1, (0.1, 0.6)), nightly(2, (0.1, 0.6))]
)
async def test_answers_of_every_kind_are_the_same_although_shards_are_killed(
    processes: Processes, world: int, kills: Sequence[float]
) -> None:
    """Requests wait, share pages and are preempted: there are few rows and pages."""
    server = start(processes, *ROWS, "--max-swap-tokens", "1024", "--num-shard", str(world))
    url, requests = await asyncio.to_thread(server.url), bodies(9, seed=2)
    prompt = {"inputs": SHARED_PREFIX * 3, "parameters": {"decoder_input_details": True}}
    async with asyncio.timeout(LIMIT_SECONDS):
        whole, first = await generate(url, prompt), Progress()
        undisturbed = await stream_all(url, requests, first)
        progress = Progress()
        async with streaming(url, requests, progress) as answers:
            again = asyncio.ensure_future(generate(url, prompt))
            for part in kills:
                await progress.reach(int(part * first.tokens))
                os.kill(shards(server)[-1], SIGKILL)
                assert await unready_reason(url) == "restarting"
                await until_restarted(server)
            assert_same(await answers, undisturbed)
            assert (await again)["generated_text"] == whole["generated_text"]
            assert logprobs(await again) == pytest.approx(logprobs(whole), rel=1e-3)
    server.signal(SIGTERM)
    assert server.end() == 0


@pytest.mark.parametrize("world", [nightly("1"), "2"])
async def test_a_shard_that_hangs_is_replaced_and_its_streams_go_on(
    processes: Processes, echo: Sequence[str], world: str
) -> None:
    server = start(processes, *echo, "--num-shard", world, "--step-timeout", "1")
    url, progress = await asyncio.to_thread(server.url), Progress()
    async with asyncio.timeout(LIMIT_SECONDS):
        undisturbed = await stream_all(url, [ENDLESS] * 4, Progress())
        async with streaming(url, [ENDLESS] * 4, progress) as answers:
            await progress.reach(100)
            os.kill(shards(server)[0], SIGSTOP)
            assert await unready_reason(url) in {"stalled", "restarting"}
            await until_restarted(server)
            assert_same(await answers, undisturbed)
    server.signal(SIGTERM)
    assert server.end() == 0


async def test_a_request_that_arrives_without_shards_is_answered_once_they_are_back(
    processes: Processes, echo: Sequence[str]
) -> None:
    """The shards die when idle, and once more while they load."""
    server = start(processes, *echo)
    url = await asyncio.to_thread(server.url)
    async with asyncio.timeout(LIMIT_SECONDS):
        undisturbed = await stream_all(url, [ENDLESS], Progress())
        [idle] = shards(server)
        os.kill(idle, SIGKILL)
        assert await unready_reason(url) == "restarting"
        async with streaming(url, [ENDLESS], Progress()) as answers:
            await asyncio.to_thread(server.line, "Restarting the shards in ")
            while (loading := shards(server)) in ([], [idle]):  # noqa: ASYNC110
                await asyncio.sleep(0)
            os.kill(loading[0], SIGKILL)
            await asyncio.to_thread(server.line, "Restarting the shards in ")
            await until_restarted(server)
            assert_same(await answers, undisturbed)
    server.signal(SIGTERM)
    assert server.end() == 0


async def test_a_router_that_dies_is_replaced_and_the_shards_stay(
    processes: Processes, echo: Sequence[str]
) -> None:
    """Its streams are lost. The new one connects to the shards, and survives their restart."""
    server = start(processes, *echo, "--num-shard", "2")
    url, progress = await asyncio.to_thread(server.url), Progress()
    async with asyncio.timeout(LIMIT_SECONDS):
        undisturbed = await stream_all(url, [ENDLESS], Progress())
        before = shards(server)
        async with streaming(url, [ENDLESS], progress) as answers:
            await progress.reach(10)
            os.kill(child_pids(server.process.pid, "router")[0], SIGKILL)
            with pytest.raises(aiohttp.ClientError):
                await answers
        assert_same(await stream_all(url, [ENDLESS], Progress()), undisturbed)
        assert shards(server) == before
        progress = Progress()
        async with streaming(url, [ENDLESS], progress) as answers:
            await progress.reach(10)
            os.kill(before[0], SIGKILL)
            assert_same(await answers, undisturbed)
        for pid in (*child_pids(server.process.pid, "router"), shards(server)[0]):
            os.kill(pid, SIGKILL)
        await asyncio.to_thread(server.line, "Router restarted in ")
        assert_same(await stream_all(url, [ENDLESS], Progress()), undisturbed)
    server.signal(SIGTERM)
    assert server.end() == 0


async def test_a_server_that_drains_finishes_its_streams_although_a_shard_dies(
    processes: Processes, echo: Sequence[str]
) -> None:
    server = start(processes, *echo)
    url, progress = await asyncio.to_thread(server.url), Progress()
    async with asyncio.timeout(LIMIT_SECONDS):
        undisturbed = await stream_all(url, [ENDLESS], Progress())
        async with streaming(url, [ENDLESS], progress) as answers:
            await progress.reach(10)
            server.signal(SIGTERM)
            assert await unready_reason(url) == "draining"
            os.kill(shards(server)[0], SIGKILL)
            assert_same(await answers, undisturbed)
    assert server.end() == 0
    assert any(line.startswith("Shards restarted in ") for line in server.lines)


async def test_streams_end_with_an_error_if_the_shards_fail_too_often(
    processes: Processes, echo: Sequence[str]
) -> None:
    server = start(processes, *echo)
    url, progress = await asyncio.to_thread(server.url), Progress()
    body = ENDLESS | {"parameters": {"max_new_tokens": 4000, "ignore_eos": True}}
    async with asyncio.timeout(LIMIT_SECONDS):
        async with streaming(url, [body], progress) as answers:
            for _ in range(MAX_RESTARTS):
                await progress.reach(progress.tokens + 5)
                os.kill(shards(server)[0], SIGKILL)
                await until_restarted(server)
            os.kill(shards(server)[0], SIGKILL)
            [events] = await answers
    assert events[-1]["error_type"] == "generation"
    assert [event["index"] for event in events[:-1]] == list(range(1, len(events)))
    assert server.end() == 1
    assert any(
        line.startswith("Error: ShardFailed: rank 0 ended by SIGKILL") for line in server.lines
    )
