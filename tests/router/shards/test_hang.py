"""Real ranks under the watchdog, in virtual time: stopped, stuck, or busy for long."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import pytest

from router.shards.watchdog import Watchdog
from shard.wire.protocol import AppendPages, NewRow, Ping, Pong, RowWork, Sampling, Step
from tests.support.ranks import ECHO, RankConnection, RankProcess, echo_group, socket_folder

TIMEOUT = 5.0
FIRST = Step(
    1,
    (),
    (NewRow(1, (5, 6, 7), 3, 9, True, Sampling()),),
    (AppendPages(1, (1,)),),
    (RowWork(1, 3, 0),),
)
STUCK = """
import sys, threading
import shard.__main__ as entry

entry.EchoEngine._compute = lambda self: threading.Event().wait()
sys.exit(entry.main())
"""


class Watched:
    """Connections to ranks that a watchdog watches; a check is a virtual second."""

    def __init__(self, *wires: RankConnection) -> None:
        self.wires = wires
        self.watchdog = Watchdog(len(wires), TIMEOUT)
        self.now = 0.0

    def send(self, step: Step) -> None:
        for wire in self.wires:
            wire.send(step)
        self.watchdog.step_sent(0.0, self.now)

    def check(self, answering: Sequence[int]) -> str | None:
        """Check the ranks a second later, and read the pongs of those that are `answering`."""
        self.now += 1.0
        reason = self.watchdog.hang(self.now)
        for rank in self.watchdog.ranks_to_ping(self.now):
            self.wires[rank].send(Ping(1))
            if rank in answering:
                self.watchdog.ponged(rank, self.pong(rank).progress)
        return reason

    def wait_for_progress(self, rank: int) -> None:
        """Wait until the count of `rank` has changed."""
        self.wires[rank].send(Ping(1))
        before = self.pong(rank).progress
        for _ in range(1_000_000):
            self.wires[rank].send(Ping(1))
            if self.pong(rank).progress != before:
                return
        raise AssertionError("no progress")

    def pong(self, rank: int) -> Pong:
        message = self.wires[rank].receive()
        assert isinstance(message, Pong), message
        return message


@pytest.mark.parametrize("in_step", [False, True], ids=["idle", "in a Step"])
@pytest.mark.parametrize("world", [1, 2])
def test_a_stopped_rank_is_found_although_others_compute(world: int, in_step: bool) -> None:
    with echo_group(world, echo_seconds=600.0) as ranks, ExitStack() as stack:
        wires = [stack.enter_context(RankConnection(rank.config.socket)) for rank in ranks]
        for wire, rank in zip(wires, ranks, strict=True):
            wire.greet(rank.config)
        watched = Watched(*wires)
        if in_step:
            watched.send(FIRST)
            watched.wait_for_progress(world - 1)
        os.kill(ranks[-1].process.pid, signal.SIGSTOP)
        reasons = [watched.check(answering=range(world - 1)) for _ in range(7)]
        assert reasons == [None] * 6 + [f"rank {world - 1} has not answered a ping for 5 s"]


def test_a_step_much_longer_than_the_timeout_is_not_a_hang_while_the_rank_computes() -> None:
    with echo_group(1, echo_seconds=600.0) as [rank], RankConnection(rank.config.socket) as wire:
        wire.greet(rank.config)
        watched = Watched(wire)
        watched.send(FIRST)
        for _ in range(10):
            reasons = [watched.check(answering=[0]) for _ in range(3)]
            assert reasons == [None] * 3
            watched.wait_for_progress(0)


def test_a_rank_that_answers_pings_but_does_not_compute_is_found() -> None:
    with socket_folder() as folder:
        config = replace(ECHO, socket=str(folder / "s.sock"))
        with RankProcess(config, ("-c", STUCK)) as rank, ExitStack() as stack:
            assert rank.next_event() == {"event": "ready"}
            wire = stack.enter_context(RankConnection(config.socket))
            wire.greet(config)
            watched = Watched(wire)
            watched.send(FIRST)
            reasons = (watched.check(answering=[0]) for _ in range(1_000_000))
            assert next(filter(None, reasons)) == "no rank has made progress in a Step for 5 s"
