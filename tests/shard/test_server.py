"""A shard process behind its socket: real processes, real sockets."""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from shard.echo.echo_engine import EchoEngine
from shard.echo.replies import full_reply
from shard.errors import StartupError
from shard.server import MAX_QUEUED_STEPS, serve
from shard.wire.protocol import (
    VERSION,
    Ack,
    AppendPages,
    Fatal,
    Hello,
    Message,
    NewRow,
    Ping,
    Pong,
    Prepare,
    Prepared,
    RowWork,
    Sampling,
    Step,
    StepResult,
    pack,
)
from shard.wire.sockets import MAX_PATH_BYTES, listening
from tests.support.paths import ROOT
from tests.support.ranks import ECHO, RankConnection, RankProcess, socket_folder

PROMPT = (5, 6, 7)
FIRST = Step(
    1,
    (),
    (NewRow(1, PROMPT, len(PROMPT), 9, True, Sampling()),),
    (AppendPages(1, (1,)),),
    (RowWork(1, len(PROMPT), 0),),
)


@contextmanager
def shard(**changes: Any) -> Iterator[RankProcess]:
    with (
        socket_folder() as path,
        RankProcess(replace(ECHO, socket=str(path / "s.sock"), **changes)) as rank,
    ):
        assert rank.next_event() == {"event": "ready"}
        yield rank


@contextmanager
def greeted(**changes: Any) -> Iterator[tuple[RankProcess, RankConnection]]:
    with shard(**changes) as rank, RankConnection(rank.config.socket) as wire:
        wire.greet(rank.config)
        yield rank, wire


def test_rank_0_answers_steps_with_results_in_order() -> None:
    with greeted() as (_, wire):
        wire.send(FIRST, Step(2, (), (), (), (RowWork(1, 0, 3),)), Step(3, (1,), (), (), ()))
        results = [wire.receive() for _ in range(3)]
    items = [item for result in results if isinstance(result, StepResult) for item in result.items]
    assert [type(result) for result in results] == [StepResult] * 3
    tokens = [token for item in items for token in item.tokens]
    assert tuple(tokens) == full_reply(PROMPT, 0, 9, ignore_eos=True)[0][: len(tokens)]


def test_other_ranks_acknowledge_with_the_digest_that_rank_0_has() -> None:
    with greeted(world=2) as (_, first), greeted(rank=1, world=2) as (_, second):
        first.send(FIRST)
        second.send(FIRST)
        result, ack = first.receive(), second.receive()
    assert isinstance(result, StepResult)
    assert ack == Ack(1, result.digest)


def last_step(message: Message | None, nonce: int) -> int:
    """Return the last completed Step that the pong to `nonce` names."""
    assert isinstance(message, Pong), message
    assert message.nonce == nonce
    return message.step


def progress(wire: RankConnection) -> int:
    """Ask for the rank's count of progress."""
    wire.send(Ping(1))
    pong = wire.receive()
    assert isinstance(pong, Pong), pong
    return pong.progress


def test_pongs_show_the_progress_of_a_step_that_is_not_complete() -> None:
    with greeted(echo_seconds=600.0) as (_, wire):
        wire.send(FIRST)
        first = progress(wire)
        assert any(progress(wire) > first + 1 for _ in range(1_000_000))


def test_an_idle_rank_shows_no_progress() -> None:
    with greeted() as (_, wire):
        wire.send(FIRST)
        wire.receive()
        assert progress(wire) == progress(wire)


def test_a_ping_is_answered_during_a_step() -> None:
    with greeted(echo_seconds=600.0) as (_, wire):
        wire.send(FIRST, Ping(3))
        assert last_step(wire.receive(), nonce=3) == 0


def test_a_grammar_is_prepared_during_a_step() -> None:
    with greeted(echo_seconds=600.0) as (_, wire):
        wire.send(FIRST, Prepare(1, "a"), Prepare(2, "b"))
        assert [wire.receive(), wire.receive()] == [Prepared(1), Prepared(2)]


class Unprepared(EchoEngine):
    def prepare(self, grammar: str) -> None:
        raise MemoryError(grammar)


def test_what_cannot_be_prepared_ends_the_process() -> None:
    with socket_folder() as path:
        config = replace(ECHO, socket=str(path / "s.sock"))
        with ThreadPoolExecutor(1) as pool:
            listens = Event()
            served = pool.submit(serve, Unprepared(config), config, listens.set)
            assert listens.wait(30)
            with RankConnection(config.socket) as wire:
                wire.greet(config)
                wire.send(Prepare(1, "a"))
                assert wire.receive() == Fatal(1, "MemoryError: a")
                assert isinstance(served.exception(30), MemoryError)


def test_a_pong_names_the_last_finished_step() -> None:
    with greeted() as (_, wire):
        wire.send(FIRST)
        wire.receive()
        wire.send(Ping(4))
        assert last_step(wire.receive(), nonce=4) == 1


@pytest.mark.parametrize("number", [0, 2])
def test_a_gap_in_the_numbers_ends_the_process(number: int) -> None:
    with greeted() as (rank, wire):
        wire.send(replace(FIRST, number=number))
        assert wire.receive() == Fatal(1, f"ProtocolError: Step {number} follows Step 0")
        assert rank.process.wait() == 1


def test_what_the_engine_raises_ends_the_process_with_a_traceback() -> None:
    with greeted() as (rank, wire):
        wire.send(Step(1, (), (), (), (RowWork(7, 0, 0),)))
        assert wire.receive() == Fatal(1, "ProtocolError: there is no row 7")
        assert wire.receive() is None
        assert rank.process.wait() == 1
        assert "Traceback" in rank.stderr()
        assert not Path(rank.config.socket).exists()


def test_a_new_router_starts_from_nothing() -> None:
    with greeted() as (rank, wire):
        wire.send(FIRST)
        first = wire.receive()
        wire.__exit__()
        with RankConnection(rank.config.socket) as again:
            again.greet(rank.config)
            again.send(FIRST)
            assert again.receive() == first


@pytest.mark.parametrize(
    "message",
    [
        Hello(VERSION + 1, 0, 1),
        Hello(VERSION, 1, 1),
        Hello(VERSION, 0, 2),
        Ping(1),
    ],
    ids=["version", "rank", "world", "no hello"],
)
def test_a_wrong_greeting_is_refused_and_the_next_router_served(message: Message) -> None:
    with shard() as rank:
        with RankConnection(rank.config.socket) as other:
            other.send(message)
            assert other.receive() is None
        with RankConnection(rank.config.socket) as wire:
            assert wire.greet(rank.config).rank == 0


@pytest.mark.parametrize(
    "data",
    [b"\xff\xff\xff\xff", b"\x01\0\0\0\xc1", pack(Ack(1, 1)), pack(FIRST)[:-1], b"\x05\0"],
    ids=["oversized", "not msgpack", "not for a rank", "cut frame", "cut header"],
)
def test_a_broken_frame_ends_the_connection_and_the_next_router_is_served(data: bytes) -> None:
    with greeted() as (rank, wire):
        wire.send_bytes(data)
        wire._socket.shutdown(socket.SHUT_WR)
        assert wire.receive() is None
        with RankConnection(rank.config.socket) as again:
            assert again.greet(rank.config).rank == 0


def test_more_steps_than_a_rank_queues_end_the_connection() -> None:
    with greeted(echo_seconds=600.0) as (rank, wire):
        wire.send(
            FIRST, *(Step(number, (), (), (), ()) for number in range(2, MAX_QUEUED_STEPS + 4))
        )
        assert wire.receive() is None
        rank.close_stdin()
        assert rank.process.wait() == 0
        assert "Steps wait" in rank.stderr()


def test_the_socket_is_private_and_gone_at_the_end() -> None:
    with shard() as rank:
        path = Path(rank.config.socket)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        rank.close_stdin()
        assert rank.process.wait() == 0
        assert not path.exists()


@pytest.mark.parametrize("moment", ["idle", "greeted", "in a Step"])
@pytest.mark.parametrize("how", ["end of stdin", "SIGTERM"])
def test_a_shard_ends_cleanly_when_told(moment: str, how: str) -> None:
    with shard(echo_seconds=600.0) as rank, RankConnection(rank.config.socket) as wire:
        if moment != "idle":
            wire.greet(rank.config)
        if moment == "in a Step":
            wire.send(FIRST, Ping(1))
            assert last_step(wire.receive(), nonce=1) == 0
        rank.close_stdin() if how == "end of stdin" else rank.process.terminate()
        assert rank.process.wait() == 0
        assert rank.stderr() == ""
        assert not Path(rank.config.socket).exists()


def test_ctrl_c_is_the_launchers_business() -> None:
    with greeted() as (rank, wire):
        rank.process.send_signal(signal.SIGINT)
        wire.send(Ping(1))
        assert last_step(wire.receive(), nonce=1) == 0


def test_without_a_launcher_nothing_starts() -> None:
    program = [sys.executable, "-m", "shard"]
    ended = subprocess.run(program, cwd=ROOT, input=b"", capture_output=True, check=True)
    assert (ended.stdout, ended.stderr) == (b"", b"")


def test_the_socket_of_a_dead_process_is_replaced() -> None:
    with socket_folder() as path:
        config = replace(ECHO, socket=str(path / "s.sock"))
        with RankProcess(config) as first:
            first.next_event()
            first.process.kill()
            first.process.wait()
        assert Path(config.socket).exists()
        with RankProcess(config) as second:
            assert second.next_event() == {"event": "ready"}


def test_the_socket_of_a_live_process_is_left_alone() -> None:
    with shard() as rank:
        with RankProcess(rank.config) as second:
            event = second.next_event()
            assert event["code"] == second.process.wait() == 7
            assert "is in use by a process" in event["text"]
        with RankConnection(rank.config.socket) as wire:
            assert wire.greet(rank.config).rank == 0


def test_a_file_that_is_no_socket_is_never_removed() -> None:
    with socket_folder() as path:
        (path / "s.sock").write_text("precious")
        with pytest.raises(StartupError, match="cannot listen"), listening(str(path / "s.sock")):
            pass
        assert (path / "s.sock").read_text() == "precious"


def test_a_path_over_the_limit_is_a_fault_and_one_at_the_limit_is_not() -> None:
    with socket_folder() as path:
        longest = str(path / "s").ljust(MAX_PATH_BYTES, "s")
        with listening(longest):
            pass
        with pytest.raises(StartupError, match="bytes") as fault, listening(longest + "s"):
            pass
    assert fault.value.code == 7


def test_a_folder_that_is_not_there_is_a_fault() -> None:
    with pytest.raises(StartupError, match="No such file") as fault, listening("/nowhere/s.sock"):
        pass
    assert fault.value.code == 7


STUCK = """
import hashlib, sys
import shard.__main__ as entry

class Stuck:
    def __init__(self, config):
        print("noise of a library", flush=True)
        entry.os.write(2, b"stuck")
        hashlib.pbkdf2_hmac("sha256", b"", b"", (1 << 31) - 1)  # native code that no signal ends

entry.EchoEngine = Stuck
sys.exit(entry.main())
"""


def test_a_shard_stuck_in_native_code_ends_all_the_same() -> None:
    with RankProcess(ECHO, ("-c", STUCK)) as rank:
        assert rank.process.stderr
        assert rank.process.stderr.readline() == b"noise of a library\n"
        assert rank.process.stderr.read(5) == b"stuck"
        rank.close_stdin()
        assert rank.process.wait() == 0
        assert rank.process.stdout
        assert rank.process.stdout.read() == b""
