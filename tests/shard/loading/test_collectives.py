"""Real ranks over gloo emit one rank's tokens, also where there are more ranks than KV heads."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from router.cli.port import TCP_LISTEN_STATE
from shard.wire.protocol import Sampling
from tests.support import driver, tiny
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.forked_ranks import ForkedRank
from tests.support.ranks import (
    config_for_rank,
    connect_group,
    model_group,
    socket_folder,
)
from tests.support.samplings import SAMPLED
from tests.support.tiny import SHARDED, engine

LOOPBACK = f"{int.from_bytes(socket.inet_aton('127.0.0.1'), sys.byteorder):08X}"
"""127.0.0.1 as the kernel writes it."""
Model = Callable[..., str]
ASKS = [RowSpec((5, 6, 7), 24, Sampling()), RowSpec(tuple(range(20)), 24, SAMPLED)]


@pytest.mark.parametrize(
    ("name", "world"), [*((name, 2) for name in (*SHARDED, "llama-one-kv")), ("llama", 4)]
)
def test_tokens_do_not_depend_on_the_number_of_ranks(model: Model, name: str, world: int) -> None:
    path, draft = model(name), model("llama", 1)
    alone = drive(engine(path, draft), ASKS, DrivePlan(draft=3))
    numbers = count(1)
    with model_group(tiny.config(path, draft), world) as ranks, connect_group(ranks) as group:
        items = driver.run_steps(
            ASKS,
            DrivePlan(draft=3),
            lambda step: group.execute(replace(step, number=next(numbers))).items,
        )
    assert driver.tokens_by_row(items, len(ASKS)) == alone


def test_a_model_without_a_plan_is_refused_by_name(model: Model) -> None:
    with socket_folder() as path, ExitStack() as stack:
        alone = tiny.config(model("gpt2"), "")
        ranks = [
            stack.enter_context(ForkedRank(config_for_rank(alone, n, 2, path))) for n in range(2)
        ]
        for rank in ranks:
            while (event := rank.next_event())["event"] == "progress":
                pass
            assert event["event"] == "fault"
            assert "GPT2LMHeadModel has no tensor-parallel plan" in event["text"]
            rank.process.join(timeout=60)
            assert rank.process.exitcode == 4


def listening_addresses(pid: int) -> list[str]:
    """The addresses on which process `pid` listens for TCP, as in /proc/net/tcp and tcp6."""
    links = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return [
        row[1].partition(":")[0]
        for row in rows
        if row[3] == TCP_LISTEN_STATE and f"socket:[{row[9]}]" in links
    ]


@pytest.mark.nightly
def test_ranks_listen_on_the_loopback_interface_only(model: Model) -> None:
    with model_group(tiny.config(model("llama"), model("llama", 1)), 2) as ranks:
        pids = [rank.process.pid for rank in ranks if rank.process.pid]
        addresses = [listening_addresses(pid) for pid in pids]
    assert len(addresses) == 2
    assert all(addresses), "gloo listens"
    assert {address for each in addresses for address in each} == {LOOPBACK}
