"""Rank processes for tests, and the router's side of their connections; `with` ends both."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from shard.config import ShardConfig
from shard.wire.protocol import (
    HEADER_BYTES,
    VERSION,
    Ack,
    Hello,
    Message,
    Ready,
    Step,
    StepResult,
    body_length,
    pack,
    unpack,
)
from tests.support.forked_ranks import ForkedRank
from tests.support.paths import ROOT

ECHO = ShardConfig(
    model_path="",
    model_id="echo",
    draft_path=None,
    rank=0,
    world=1,
    socket="",
    rendezvous="",
    speculate=3,
    dtype=None,
    max_rows=64,
    max_total_tokens=None,
    max_batch_total_tokens=None,
    echo=True,
)


class RankProcess:
    """A shard process; it is killed when the `with` block ends."""

    def __init__(self, config: ShardConfig, program: tuple[str, ...] = ("-m", "shard")) -> None:
        self.config = config
        self.process = subprocess.Popen(
            [sys.executable, *program],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._write(json.dumps(asdict(config)).encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def next_event(self) -> dict[str, Any]:
        """Return the next event that the process sends to its launcher."""
        assert self.process.stdout
        event: dict[str, Any] = json.loads(self.process.stdout.readline())
        return event

    def close_stdin(self) -> None:
        """Close stdin, as the death of the launcher would."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.stdin = None

    def stderr(self) -> str:
        """Return the log of a process that has ended."""
        assert self.process.stderr
        return self.process.stderr.read().decode()

    def _write(self, data: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(data)
        self.process.stdin.flush()


class RankConnection:
    """The router's side of a connection to one rank, with blocking reads and writes."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._stream = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def send(self, *messages: Message) -> None:
        self.send_bytes(b"".join(map(pack, messages)))

    def send_bytes(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> Message | None:
        """Return the next message; None at the end of the connection."""
        header = self._stream.read(HEADER_BYTES)
        return unpack(self._stream.read(body_length(header))) if header else None

    def greet(self, config: ShardConfig) -> Ready:
        self.send(Hello(VERSION, config.rank, config.world))
        ready = self.receive()
        assert isinstance(ready, Ready)
        return ready


@contextmanager
def socket_folder() -> Iterator[Path]:
    """Create a private folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="laps-") as path:
        yield Path(path)


@contextmanager
def echo_group(world: int, **changes: Any) -> Iterator[list[RankProcess]]:
    """Start `world` echo ranks that accept connections."""
    with socket_folder() as path:
        ranks: list[RankProcess] = []
        try:
            for number in range(world):
                place = replace(ECHO, rank=number, world=world, socket=str(path / f"{number}.sock"))
                ranks.append(RankProcess(replace(place, **changes)))
            for rank in ranks:
                assert rank.next_event() == {"event": "ready"}
            yield ranks
        finally:
            for rank in ranks:
                rank.__exit__()


@contextmanager
def model_group(
    config: ShardConfig, world: int, prepare: Callable[[], None] | None = None
) -> Iterator[list[ForkedRank]]:
    """Start `world` ranks that serve the models of `config` and accept connections.

    `prepare` is that of `ForkedRank`.
    """
    with socket_folder() as path, ExitStack() as stack:
        ranks = [
            stack.enter_context(ForkedRank(config_for_rank(config, n, world, path), prepare))
            for n in range(world)
        ]
        wait_until_ready(ranks)
        yield ranks


def wait_until_ready(ranks: Sequence[RankProcess | ForkedRank]) -> None:
    """Wait until all `ranks` accept connections."""
    for rank in ranks:
        while (event := rank.next_event())["event"] == "progress":
            pass
        assert event == {"event": "ready"}, event


def config_for_rank(config: ShardConfig, rank: int, world: int, path: Path) -> ShardConfig:
    """Return `config` for one of `world` ranks whose sockets are in the folder `path`."""
    socket, rendezvous = str(path / f"{rank}.sock"), str(path / "rendezvous")
    return replace(config, rank=rank, world=world, socket=socket, rendezvous=rendezvous)


class RankGroup:
    """Connections to all ranks, as one engine; checks that the ranks agree."""

    def __init__(self, connections: Sequence[RankConnection], ready: Ready) -> None:
        self._connections, self._ready = connections, ready

    def ready(self) -> Ready:
        return self._ready

    def execute(self, step: Step) -> StepResult:
        return self.start(step).result()

    def start(self, step: Step) -> SentStep:
        """Send `step`. Its handle never reports completion, so that the next Step is sent early."""
        for wire in self._connections:
            wire.send(step)
        return SentStep(self._connections, step.number)


@dataclass(frozen=True)
class SentStep:
    """A Step that all ranks have been sent."""

    connections: Sequence[RankConnection]
    number: int

    def is_complete(self) -> bool:
        return False

    def result(self) -> StepResult:
        result, *others = (wire.receive() for wire in self.connections)
        assert isinstance(result, StepResult), result
        assert others == [Ack(self.number, result.digest)] * len(others)
        return result


@contextmanager
def connect_group(ranks: Sequence[RankProcess | ForkedRank]) -> Iterator[RankGroup]:
    """Open a new connection to every rank; a rank then drops all rows."""
    with ExitStack() as stack:
        wires = [stack.enter_context(RankConnection(rank.config.socket)) for rank in ranks]
        readies = [wire.greet(rank.config) for wire, rank in zip(wires, ranks, strict=True)]
        yield RankGroup(wires, readies[0])
