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

from router.shards.barrier import Wishes
from shard.wire.protocol import (
    HEADER,
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
    length,
    pack,
    unpack,
)

GREETING_SECONDS = 10.0
"""Time for all ranks to answer Hello."""
STEP_SECONDS = 10.0
"""A Step may take this long, or STEP_FACTOR times the 99th percentile where that is longer."""
STEP_FACTOR = 20.0
HISTORY = 512
"""Steps from which the percentile is taken."""
PING_SECONDS = 1.0
"""Time between two pings while no Step is in flight."""
PONG_SECONDS = 10.0
"""Time for every rank to answer one."""


class GroupLost(Exception):
    """The shards are of no further use; the text says why, for the log and never for a client."""


Report = StepResult | GroupLost


@dataclass(slots=True)
class _Flight:
    """A Step on its way; `answers` counts the ranks that are done with it."""

    sent: float
    answers: int = 0
    digest: int | None = None
    result: StepResult | None = None


class ShardGroup:
    """Every rank of one start of the shards. `connect` makes it, `subscribe` gives it an ear."""

    def __init__(self, world: int, depth: int, step_seconds: float | None) -> None:
        self.depth = depth
        self._step_seconds = step_seconds
        self.lost: GroupLost | None = None
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready: dict[int, Ready] = {}
        self._ranks = [_Rank(self, number, world) for number in range(world)]
        self._answered = [0] * world
        self._flights: deque[_Flight] = deque()
        self._seconds: deque[float] = deque(maxlen=HISTORY)
        self._wishes = Wishes(world)
        self._pinged, self._nonce = -inf, 0
        self._unheard: set[int] = set()
        self._deliver: Callable[[Report], None] = lambda report: None

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, paths: Sequence[str], depth: int = 2, step_seconds: float | None = None
    ) -> AsyncIterator[ShardGroup]:
        """Greet the rank behind every socket path, rank 0 first; the connections end at the exit.

        A Step that takes longer than `step_seconds` means that the ranks hang; without it, what
        their Steps took so far says so.

        Raises GroupLost if one is not there, or not of this version and group.
        """
        group = cls(len(paths), depth, step_seconds)
        try:
            await group._greet(paths)
            yield group
        finally:
            group._close()

    @property
    def ready(self) -> tuple[Ready, ...]:
        """What each rank said of itself, rank 0 first."""
        return tuple(self._ready[number] for number in range(len(self._ranks)))

    @property
    def free(self) -> bool:
        """Whether one more Step may be sent."""
        return self.lost is None and len(self._flights) < self.depth

    def subscribe(self, deliver: Callable[[Report], None]) -> None:
        """From now on hand `deliver` each Step's result in order, and at the end the loss."""
        self._deliver = deliver
        if self.lost:
            deliver(self.lost)

    def send(self, step: Step, now: float) -> None:
        """Put the same bytes on the way to every rank. Only while `free`; numbers go up by one."""
        frame = pack(step)
        self._flights.append(_Flight(now))
        for rank in self._ranks:
            rank.write(frame)

    async def prepare(self, grammar: str) -> None:
        """Wait until every rank is ready for rows with `grammar`, or the group is lost."""
        if self.lost:
            return
        number, done = self._wishes.make()
        frame = pack(Prepare(number, grammar))
        for rank in self._ranks:
            rank.write(frame)
        await done

    def late(self, now: float) -> bool:
        """Whether the oldest Step in flight takes longer than any Step should."""
        if not self._flights:
            return False
        age = now - self._flights[0].sent
        if self._step_seconds is not None:
            return age > self._step_seconds
        return age > STEP_SECONDS and age > STEP_FACTOR * self._percentile()

    def check(self, now: float) -> None:
        """Ping idle ranks; lose a group that hangs. To be called about once a second."""
        if self.late(now):
            self._lose("a Step takes too long")
        elif self._flights or self.lost:
            return
        elif self._unheard and now - self._pinged > PONG_SECONDS:
            self._lose(f"ranks {sorted(self._unheard)} answer no ping")
        elif not self._unheard and now - self._pinged >= PING_SECONDS:
            self._send_pings(now)

    def heard(self, number: int, message: Message) -> None:
        """Take a message of rank `number`. Raises ProtocolError if it has no business here."""
        match message:
            case Ready() if number not in self._ready and message.rank == number:
                self._take_ready(number, message)
            case StepResult() if number == 0:
                self._take_answer(number, message.number, message.digest, message)
            case Ack() if number != 0:
                self._take_answer(number, message.number, message.digest)
            case Pong():
                if message.nonce == self._nonce:
                    self._unheard.discard(number)
            case Prepared():
                self._wishes.fulfil(number, message.number)
            case Fatal():
                raise ProtocolError(message.text)
            case _:
                raise ProtocolError(f"unexpected {type(message).__name__}")

    def gone(self, number: int, why: str) -> None:
        """Rank `number` is of no further use."""
        self._lose(f"rank {number}: {why}")

    async def _greet(self, paths: Sequence[str]) -> None:
        try:
            async with asyncio.timeout(GREETING_SECONDS):
                for rank, path in zip(self._ranks, paths, strict=True):
                    await rank.connect(path)
                await self._greeted
        except (OSError, TimeoutError) as fault:
            raise GroupLost(f"cannot greet the shards: {fault or 'no answer'}") from fault
        if self.lost:
            raise self.lost

    def _take_ready(self, number: int, ready: Ready) -> None:
        self._ready[number] = ready
        if len(self._ready) == len(self._ranks):
            self._greeted.set_result(None)

    def _take_answer(
        self, rank: int, number: int, digest: int, result: StepResult | None = None
    ) -> None:
        ahead = self._answered[rank] - min(self._answered)
        if number != self._answered[rank] + 1 or ahead >= len(self._flights):
            raise ProtocolError(f"Step {number} answered after Step {self._answered[rank]}")
        flight = self._flights[ahead]
        if flight.digest not in (None, digest):
            raise ProtocolError(f"rows differ between ranks after Step {number}")
        self._answered[rank] = number
        flight.digest, flight.result = digest, flight.result or result
        flight.answers += 1
        if flight.answers == len(self._ranks):
            self._complete(self._flights.popleft())

    def _complete(self, flight: _Flight) -> None:
        self._unheard.clear()  # an answered Step is as good as a pong
        if flight.result:
            self._seconds.append(flight.result.seconds)
            self._deliver(flight.result)

    def _percentile(self) -> float:
        ordered = sorted(self._seconds) or [0.0]
        return ordered[len(ordered) * 99 // 100]

    def _send_pings(self, now: float) -> None:
        self._pinged, self._nonce = now, self._nonce + 1
        self._unheard.update(range(len(self._ranks)))
        for rank in self._ranks:
            rank.write(pack(Ping(self._nonce)))

    def _lose(self, why: str) -> None:
        if self.lost:
            return
        self.lost = GroupLost(why)
        self._close()
        if not self._greeted.done():
            self._greeted.set_result(None)
        self._deliver(self.lost)

    def _close(self) -> None:
        self.lost = self.lost or GroupLost("closed")
        self._wishes.drop()
        for rank in self._ranks:
            rank.close()


class _Rank(asyncio.Protocol):
    """One rank's connection: frames in, bytes out."""

    def __init__(self, group: ShardGroup, number: int, world: int) -> None:
        self._group = group
        self._number = number
        self._hello = Hello(VERSION, number, world)
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
                self._group.heard(self._number, unpack(body))
        except ProtocolError as fault:
            self._group.gone(self._number, str(fault))

    def connection_lost(self, exc: Exception | None) -> None:
        self._group.gone(self._number, "the connection ended")

    def _frames(self) -> Iterator[bytes]:
        while len(self._buffer) >= HEADER:
            end = HEADER + length(bytes(self._buffer[:HEADER]))
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[HEADER:end])
            del self._buffer[:end]
            yield body
