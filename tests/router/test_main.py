"""The router process, with a real shard process that echoes, over real sockets."""

import asyncio
import json
import math
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from router.capacity import check_ranks_agree, combined_capacity
from router.child import RouterStartupError
from router.config import Limits, RouterConfig, ServerConfig
from router.dispatch.learned_state import SchedulerStateFile
from router.requests.request import resolve_limits
from router.scheduler.config import SchedulerConfig
from shard.config import ShardConfig
from tests.support.families import byte_level
from tests.support.paths import ROOT
from tests.support.ranks import ECHO, RankProcess
from tests.support.scripted_ranks import ready_message

LONG = {"inputs": "some words", "parameters": {"max_new_tokens": 200, "ignore_eos": True}}


@dataclass
class Router:
    process: asyncio.subprocess.Process
    port: int

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def event(self) -> Any:
        assert self.process.stdout
        return json.loads(await self.process.stdout.readline())

    def send(self, **message: object) -> None:
        """Send a message as the launcher does."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message).encode() + b"\n")

    def close_stdin(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()


@asynccontextmanager
async def router(
    folder: Path, sock: Path, state: str = "none", policy: str = "laps-sd", **limits: Any
) -> AsyncIterator[Router]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = RouterConfig(
        limits=Limits(**limits),
        scheduler=SchedulerConfig(scheduler=policy, scheduler_state=state),
        server=ServerConfig(),
        model_path=str(folder),
        model_id="echo",
        revision=None,
        draft_model_id=None,
        sockets=(str(sock),),
        listen_fd=listener.fileno(),
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "router"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        pass_fds=[listener.fileno()],
    )
    assert process.stdin
    try:
        with listener:
            process.stdin.write(json.dumps(asdict(config)).encode() + b"\n")
            port = listener.getsockname()[1]
        async with asyncio.timeout(60):
            yield Router(process, port)
    finally:
        if process.returncode is None:
            process.kill()
        process.stdin.close()
        await process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@asynccontextmanager
async def serving(
    folder: Path, seconds: float = 0.0, **limits: Any
) -> AsyncIterator[tuple[Router, RankProcess]]:
    sock = folder / "rank-0"
    with RankProcess(replace(ECHO, socket=str(sock), echo_seconds=seconds)) as rank:
        assert rank.next_event() == {"event": "ready"}
        async with router(folder, sock, **limits) as running:
            assert (await running.event())["event"] == "ready"
            yield running, rank


async def test_it_serves_the_tokens_of_its_shard(folder: Path) -> None:
    async with serving(folder) as (running, _), aiohttp.ClientSession(running.base) as session:
        async with session.post("/generate", json=LONG) as response:
            assert response.status == 200
            whole = (await response.json())["generated_text"]
        async with session.post("/generate_stream", json=LONG) as response:
            events = [json.loads(line[5:]) async for line in response.content if line.strip()]
        assert len(events) == 200
        assert events[-1]["generated_text"] == whole
        async with session.get("/info") as response:
            assert (await response.json())["speculate"] == 3
        async with session.get("/metrics") as response:
            assert "tgi_request_success 2.0\n" in await response.text()


async def test_sigterm_lets_live_requests_finish_and_refuses_new_ones(folder: Path) -> None:
    async with (
        serving(folder, seconds=0.005) as (running, _),
        aiohttp.ClientSession(running.base) as session,
        session.post("/generate_stream", json=LONG) as response,
    ):
        assert (await response.content.readline()).startswith(b'data: {"index":1,')
        running.process.send_signal(signal.SIGTERM)
        assert await _unready(session) == "draining"
        async with session.post("/generate", json=LONG) as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert b'"index":200,' in await response.content.read()
        assert await running.process.wait() == 0


async def test_a_request_behind_a_long_one_is_refused_and_the_stream_goes_on(folder: Path) -> None:
    limits = {"max_batch_size": 1, "max_queue_seconds": 0.1}
    async with (
        serving(folder, seconds=0.03, policy="fcfs", **limits) as (running, _),
        aiohttp.ClientSession(running.base) as session,
        session.post("/generate_stream", json=LONG) as response,
    ):
        assert await response.content.readline()
        for path, stream in (("/generate", False), ("/v1/completions", True)):
            body = {**LONG, "prompt": "some words", "max_tokens": 200, "stream": stream}
            async with session.post(path, json=body) as refused:
                assert refused.status == 429
                assert int(refused.headers["Retry-After"]) >= 1
                assert (await refused.json())["error_type"] == "overloaded"
        assert b'"index":200,' in await response.content.read()
        async with session.get("/metrics") as metrics:
            assert 'tgi_request_failure{err="overloaded"} 2.0\n' in await metrics.text()


async def _unready(session: aiohttp.ClientSession) -> str:
    """Why the server is no longer ready, as soon as it is not."""
    while True:
        async with session.get("/health/ready") as response:
            if response.status == 503:
                reason: str = (await response.json())["reason"]
                return reason


async def test_the_end_of_stdin_ends_it(folder: Path) -> None:
    async with serving(folder, seconds=0.05) as (running, _):
        async with (
            aiohttp.ClientSession(running.base) as session,
            session.post("/generate_stream", json=LONG) as response,
        ):
            assert await response.content.readline()
            running.close_stdin()
            assert b'"error_type":"generation"' in await response.content.read()
        assert await running.process.wait() == 0


async def test_a_failed_shard_is_reported_and_a_stream_goes_on_once_it_is_started_again(
    folder: Path,
) -> None:
    async with (
        serving(folder) as (running, _),
        aiohttp.ClientSession(running.base) as session,
        session.post("/generate_stream", json=LONG) as response,
    ):
        undisturbed = await response.content.read()
    async with (
        serving(folder, seconds=0.01) as (running, rank),
        aiohttp.ClientSession(running.base) as session,
        session.post("/generate_stream", json=LONG) as response,
    ):
        body = await response.content.readline()
        rank.process.kill()
        event = await running.event()
        assert event.pop("text").startswith("rank 0: ")
        assert event == {"event": "shards_failed", "generation": 1}
        assert await _unready(session) == "restarting"
        async with session.get("/health/live") as alive:
            assert alive.status == 200
        with RankProcess(rank.config) as successor:
            assert successor.next_event() == {"event": "ready"}
            running.send(generation=2)
            body += await response.content.read()
        assert body == undisturbed


async def test_a_draining_server_finishes_its_streams_on_the_shards_that_come_back(
    folder: Path,
) -> None:
    async with (
        serving(folder, seconds=0.01) as (running, rank),
        aiohttp.ClientSession(running.base) as session,
        session.post("/generate_stream", json=LONG) as response,
    ):
        assert await response.content.readline()
        rank.process.kill()
        assert (await running.event())["event"] == "shards_failed"
        running.process.send_signal(signal.SIGTERM)
        while await _unready(session) != "draining":
            pass
        with RankProcess(rank.config) as successor:
            assert successor.next_event() == {"event": "ready"}
            running.send(generation=2)
            assert b'"index":200,' in await response.content.read()
            assert await running.process.wait() == 0


async def test_the_limits_for_a_restart_are_reported_with_ready(folder: Path) -> None:
    sock = folder / "rank-0"
    with RankProcess(replace(ECHO, socket=str(sock), max_swap_tokens=100)) as rank:
        assert rank.next_event() == {"event": "ready"}
        async with router(folder, sock) as running:
            limits = (await running.event())["shard_limits"]
    assert limits == {"max_batch_total_tokens": 1 << 15, "max_swap_tokens": 96}
    assert set(limits) <= {field.name for field in fields(ShardConfig)}


async def test_what_the_scheduler_learned_survives_a_restart(folder: Path) -> None:
    sock, state = folder / "rank-0", folder / "state"
    with RankProcess(replace(ECHO, socket=str(sock))) as rank:
        assert rank.next_event() == {"event": "ready"}
        for number in range(3):
            async with router(folder, sock, str(state)) as running:
                assert (await running.event())["event"] == "ready"
                async with aiohttp.ClientSession(running.base) as session:
                    response = await session.post("/generate", json=LONG)
                    assert response.status == 200
                running.process.send_signal(signal.SIGTERM)
                assert await running.process.wait() == 0
            kept = SchedulerStateFile(state, "echo").load()
            assert kept
            kinds = {
                tuple(kind): (answers, mean) for kind, answers, mean in kept["lengths"]["kinds"]
            }
            assert kinds[()] == pytest.approx((number + 1, math.log(200)))


async def test_a_state_that_makes_no_sense_is_a_fresh_start(folder: Path) -> None:
    sock, state = folder / "rank-0", folder / "state"
    store = SchedulerStateFile(state, "echo")
    store.save(store.serialize({"version": -1}))
    with RankProcess(replace(ECHO, socket=str(sock))) as rank:
        assert rank.next_event() == {"event": "ready"}
        async with router(folder, sock, str(state)) as running:
            assert (await running.event())["event"] == "ready"
            running.process.send_signal(signal.SIGTERM)
            assert await running.process.wait() == 0
    kept = store.load()
    assert kept
    assert "lengths" in kept


async def test_a_shard_that_is_not_there_is_a_fault(folder: Path) -> None:
    async with router(folder, folder / "nobody") as running:
        fault = await running.event()
        assert (fault["event"], fault["code"]) == ("fault", 8)
        assert "\n" not in fault["text"]
        assert await running.process.wait() == 8


@pytest.mark.parametrize(
    ("limits", "text", "code", "word"),
    [
        ({"max_total_tokens": 10**9}, None, 2, "max_total_tokens"),
        ({}, "not a tokenizer", 4, "tokenizer"),
    ],
)
async def test_what_cannot_be_served_is_a_fault(
    folder: Path, limits: dict[str, Any], text: str | None, code: int, word: str
) -> None:
    if text is not None:
        (folder / "tokenizer.json").write_text(text)
    sock = folder / "rank-0"
    with RankProcess(replace(ECHO, socket=str(sock))) as rank:
        assert rank.next_event() == {"event": "ready"}
        async with router(folder, sock, **limits) as running:
            fault = await running.event()
            assert (fault["event"], fault["code"]) == ("fault", code)
            assert word in fault["text"]
            assert await running.process.wait() == code


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", "other"),
        ("dtype", "bfloat16"),
        ("page_size", 32),
        ("vocab_size", 7),
        ("speculate", 0),
        ("drafter", "ngram"),
    ],
)
def test_ranks_of_another_model_are_refused_in_one_line(name: str, value: Any) -> None:
    ranks = (ready_message(0), ready_message(1), replace(ready_message(2), **{name: value}))
    check_ranks_agree(ranks[:2])
    with pytest.raises(
        RouterStartupError, match=f"^the shards disagree on {name}: .* on rank 2;.*$"
    ) as caught:
        check_ranks_agree(ranks)
    assert caught.value.code == 4


def test_ranks_hold_together_what_the_least_of_them_holds() -> None:
    ranks = (
        replace(ready_message(0), pages=9, max_rows=3, host_pages=7),
        replace(ready_message(1), pages=8, max_rows=4, host_pages=6),
    )
    check_ranks_agree(ranks)
    capacity = combined_capacity(ranks, resolve_limits(Limits(), 100))
    assert (capacity.pages, capacity.max_rows, capacity.host_pages) == (8, 3, 6)
