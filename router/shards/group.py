"""The shards as one: a Unix socket per rank, numbered Steps, and one verdict on the group's life.

A Step is packed once and the same bytes go to every rank; writing never waits, since at most
`depth` Steps are in flight. It is complete when every rank has answered with the same digest of
its rows. A closed connection, a broken rule, unequal digests, a Step that takes too long or an
unanswered ping is GroupLost: collectives cannot be rejoined, so there is no partial repair.
Time is an argument, nothing here reads a clock; what a Step means is not known here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf

from router.shards.barrier import RankBarrier
from shard.wire.protocol import (
    HEADER_BYTES,
    VERSION,
    Ack,
    Fatal,
    Hello,
    Message,
    Ping,
    Pong,
    Prepare,
    Prepared,
    ProtocolError,
    Ready,
    Step,
    StepResult,
    body_length,
    pack,
    unpack,
)

HANDSHAKE_SECONDS = 10.0
"""Time for all ranks to answer Hello."""
MIN_STEP_TIMEOUT_SECONDS = 10.0
"""A Step may take this long, or STEP_FACTOR times the 99th percentile where that is longer."""
STEP_TIMEOUT_FACTOR = 20.0
STEP_HISTORY = 512
"""Steps from which the percentile is taken."""
PING_INTERVAL_SECONDS = 1.0
"""Time between two pings while no Step is in flight."""
PONG_TIMEOUT_SECONDS = 10.0
"""Time for every rank to answer one."""


class ShardGroupFailed(Exception):
    """The shards are of no further use; the text says why, for the log and never for a client."""


GroupEvent = StepResult | ShardGroupFailed


@dataclass(slots=True)
class _PendingStep:
    """A Step on its way; `answers` counts the ranks that are done with it."""

    sent_at: float
    answers: int = 0
    digest: int | None = None
    result: StepResult | None = None


class ShardGroup:
    """Every rank of one start of the shards. `connect` makes it, `set_listener` gives it an ear."""

    def __init__(self, world_size: int, depth: int, step_timeout: float | None) -> None:
        self.depth = depth
        self._step_timeout = step_timeout
        self.failure: ShardGroupFailed | None = None
        self._all_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready_messages: dict[int, Ready] = {}
        self._ranks = [_RankConnection(self, number, world_size) for number in range(world_size)]
        self._last_answered = [0] * world_size
        self._in_flight: deque[_PendingStep] = deque()
        self._step_durations: deque[float] = deque(maxlen=STEP_HISTORY)
        self._barrier = RankBarrier(world_size)
        self._pinged_at, self._nonce = -inf, 0
        self._awaiting_pong: set[int] = set()
        self._listener: Callable[[GroupEvent], None] = lambda report: None

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, paths: Sequence[str], depth: int = 2, step_timeout: float | None = None
    ) -> AsyncIterator[ShardGroup]:
        """Greet the rank behind every socket path, rank 0 first; the connections end at the exit.

        A Step that takes longer than `step_timeout` means that the ranks hang; without it, what
        their Steps took so far says so.

        Raises ShardGroupFailed if one is not there, or not of this version and group.
        """
        group = cls(len(paths), depth, step_timeout)
        try:
            await group._handshake(paths)
            yield group
        finally:
            group._close()

    @property
    def ready_messages(self) -> tuple[Ready, ...]:
        """What each rank said of itself, rank 0 first."""
        return tuple(self._ready_messages[number] for number in range(len(self._ranks)))

    @property
    def has_capacity(self) -> bool:
        """Whether one more Step may be sent."""
        return self.failure is None and len(self._in_flight) < self.depth

    def set_listener(self, listener: Callable[[GroupEvent], None]) -> None:
        """From now on hand `listener` each Step's result in order, and at the end the loss."""
        self._listener = listener
        if self.failure:
            listener(self.failure)

    def send(self, step: Step, now: float) -> None:
        """Put the same bytes on the way to every rank. Only while `free`; numbers go up by one."""
        frame = pack(step)
        self._in_flight.append(_PendingStep(now))
        for rank in self._ranks:
            rank.write(frame)

    async def prepare_grammar(self, grammar: str) -> None:
        """Wait until every rank is ready for rows with `grammar`, or the group is lost."""
        if self.failure:
            return
        number, done = self._barrier.open()
        frame = pack(Prepare(number, grammar))
        for rank in self._ranks:
            rank.write(frame)
        await done

    def is_overdue(self, now: float) -> bool:
        """Whether the oldest Step in flight takes longer than any Step should."""
        if not self._in_flight:
            return False
        age = now - self._in_flight[0].sent_at
        if self._step_timeout is not None:
            return age > self._step_timeout
        return age > MIN_STEP_TIMEOUT_SECONDS and age > STEP_TIMEOUT_FACTOR * self._step_p99()

    def check_health(self, now: float) -> None:
        """Ping idle ranks; lose a group that hangs. To be called about once a second."""
        if self.is_overdue(now):
            self._fail("a Step takes too long")
        elif self._in_flight or self.failure:
            return
        elif self._awaiting_pong and now - self._pinged_at > PONG_TIMEOUT_SECONDS:
            self._fail(f"ranks {sorted(self._awaiting_pong)} answer no ping")
        elif not self._awaiting_pong and now - self._pinged_at >= PING_INTERVAL_SECONDS:
            self._send_pings(now)

    def on_message(self, rank: int, message: Message) -> None:
        """Take a message of rank `number`. Raises ProtocolError if it has no business here."""
        match message:
            case Ready() if rank not in self._ready_messages and message.rank == rank:
                self._on_ready(rank, message)
            case StepResult() if rank == 0:
                self._on_answer(rank, message.number, message.digest, message)
            case Ack() if rank != 0:
                self._on_answer(rank, message.number, message.digest)
            case Pong():
                if message.nonce == self._nonce:
                    self._awaiting_pong.discard(rank)
            case Prepared():
                self._barrier.acknowledge(rank, message.number)
            case Fatal():
                raise ProtocolError(message.text)
            case _:
                raise ProtocolError(f"unexpected {type(message).__name__}")

    def on_disconnect(self, rank: int, reason: str) -> None:
        """Rank `number` is of no further use."""
        self._fail(f"rank {rank}: {reason}")

    async def _handshake(self, paths: Sequence[str]) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                for rank, path in zip(self._ranks, paths, strict=True):
                    await rank.connect(path)
                await self._all_ready
        except (OSError, TimeoutError) as fault:
            raise ShardGroupFailed(f"cannot greet the shards: {fault or 'no answer'}") from fault
        if self.failure:
            raise self.failure

    def _on_ready(self, rank: int, ready: Ready) -> None:
        self._ready_messages[rank] = ready
        if len(self._ready_messages) == len(self._ranks):
            self._all_ready.set_result(None)

    def _on_answer(
        self, rank: int, number: int, digest: int, result: StepResult | None = None
    ) -> None:
        ahead = self._last_answered[rank] - min(self._last_answered)
        if number != self._last_answered[rank] + 1 or ahead >= len(self._in_flight):
            raise ProtocolError(f"Step {number} answered after Step {self._last_answered[rank]}")
        flight = self._in_flight[ahead]
        if flight.digest not in (None, digest):
            raise ProtocolError(f"rows differ between ranks after Step {number}")
        self._last_answered[rank] = number
        flight.digest, flight.result = digest, flight.result or result
        flight.answers += 1
        if flight.answers == len(self._ranks):
            self._complete_step(self._in_flight.popleft())

    def _complete_step(self, flight: _PendingStep) -> None:
        self._awaiting_pong.clear()  # an answered Step is as good as a pong
        if flight.result:
            self._step_durations.append(flight.result.seconds)
            self._listener(flight.result)

    def _step_p99(self) -> float:
        ordered = sorted(self._step_durations) or [0.0]
        return ordered[len(ordered) * 99 // 100]

    def _send_pings(self, now: float) -> None:
        self._pinged_at, self._nonce = now, self._nonce + 1
        self._awaiting_pong.update(range(len(self._ranks)))
        for rank in self._ranks:
            rank.write(pack(Ping(self._nonce)))

    def _fail(self, reason: str) -> None:
        if self.failure:
            return
        self.failure = ShardGroupFailed(reason)
        self._close()
        if not self._all_ready.done():
            self._all_ready.set_result(None)
        self._listener(self.failure)

    def _close(self) -> None:
        self.failure = self.failure or ShardGroupFailed("closed")
        self._barrier.cancel_all()
        for rank in self._ranks:
            rank.close()


class _RankConnection(asyncio.Protocol):
    """One rank's connection: frames in, bytes out."""

    def __init__(self, group: ShardGroup, number: int, world_size: int) -> None:
        self._group = group
        self._number = number
        self._hello = Hello(VERSION, number, world_size)
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport | None = None

    async def connect(self, path: str) -> None:
        """Connect and say Hello. Raises OSError."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, path)

    def write(self, frame: bytes) -> None:
        """Queue `frame`; never waits."""
        if self._transport:
            self._transport.write(frame)

    def close(self) -> None:
        """End the connection at once."""
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101  narrows the type
        self._transport = transport
        self.write(pack(self._hello))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            for body in self._frames():
                self._group.on_message(self._number, unpack(body))
        except ProtocolError as fault:
            self._group.on_disconnect(self._number, str(fault))

    def connection_lost(self, exc: Exception | None) -> None:
        self._group.on_disconnect(self._number, "the connection ended")

    def _frames(self) -> Iterator[bytes]:
        while len(self._buffer) >= HEADER_BYTES:
            end = HEADER_BYTES + body_length(bytes(self._buffer[:HEADER_BYTES]))
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER_BYTES:end])
            del self._buffer[:end]
            yield body
