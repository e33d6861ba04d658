"""The group of all ranks: sends numbered steps, collects the answers, detects failures.

A step is packed once and the same bytes go to every rank. Writing never blocks, since at most
`depth` steps are in flight. A step is complete once every rank has answered it with the same digest
of its rows. A closed connection, a protocol violation, different digests or a hang, which
`watchdog` detects, fail the whole group: collectives cannot be rejoined, so no rank is replaced.

Time is an argument; nothing here reads a clock. What a step computes is not known here.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from router.shards.barrier import RankBarrier
from router.shards.rank_connection import RankConnection
from router.shards.watchdog import Watchdog, expected_seconds
from shard.wire.protocol import (
    Ack,
    AdapterLoaded,
    Fatal,
    LoadAdapter,
    Message,
    Ping,
    Pong,
    Prepare,
    Prepared,
    ProtocolError,
    Ready,
    Step,
    StepResult,
    UnloadAdapter,
    pack,
)

HANDSHAKE_SECONDS = 10.0
"""Maximum time for all ranks to answer Hello."""


class ShardGroupFailed(Exception):
    """The shards have failed. The text gives the reason, for the log; no client may see it."""

    def __init__(self, reason: str, preparing: Collection[str] = ()) -> None:
        """`preparing`: the grammars that some rank was preparing."""
        super().__init__(reason)
        self.preparing = preparing


GroupEvent = StepResult | ShardGroupFailed


@dataclass(slots=True)
class _PendingStep:
    """A step in flight; `answers` is the number of ranks that have completed it."""

    answers: int = 0
    digest: int | None = None
    result: StepResult | None = None


class ShardGroup:
    """All ranks of one start of the shards.

    Created by `connect`. Call `set_listener` to receive results.
    """

    def __init__(self, world_size: int, depth: int, step_timeout: float | None) -> None:
        self.depth = depth
        self.failure: ShardGroupFailed | None = None
        self._failed = asyncio.Event()
        self._all_ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ready_messages: dict[int, Ready] = {}
        self._ranks = [RankConnection(self, number, world_size) for number in range(world_size)]
        self._last_answered = [0] * world_size
        self._in_flight: deque[_PendingStep] = deque()
        self._grammars = RankBarrier[Prepared](world_size)
        self._adapters = RankBarrier[AdapterLoaded](world_size)
        self._watchdog = Watchdog(world_size, step_timeout)
        self._pings = 0
        self._listener: Callable[[GroupEvent], None] = lambda event: None

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, paths: Sequence[str], depth: int = 2, step_timeout: float | None = None
    ) -> AsyncIterator[ShardGroup]:
        """Connect to the ranks' sockets, rank 0 first, and close the connections on exit.

        Ranks without progress for `step_timeout` seconds count as hung; None derives the timeout
        from the step. Raises ShardGroupFailed if a rank does not answer, or has another version or
        group size.
        """
        group = cls(len(paths), depth, step_timeout)
        try:
            await group._handshake(paths)
            yield group
        finally:
            group._close()

    @property
    def ready_messages(self) -> tuple[Ready, ...]:
        """Each rank's Ready message, rank 0 first."""
        return tuple(self._ready_messages[number] for number in range(len(self._ranks)))

    @property
    def steps_in_flight(self) -> int:
        """Number of steps that not all ranks have answered."""
        return len(self._in_flight)

    @property
    def has_capacity(self) -> bool:
        """Whether another step may be sent."""
        return self.failure is None and self.steps_in_flight < self.depth

    def set_listener(self, listener: Callable[[GroupEvent], None]) -> None:
        """Call `listener` with the result of each step in order, and at last with the failure."""
        self._listener = listener
        if self.failure:
            listener(self.failure)

    async def wait_failed(self) -> ShardGroupFailed:
        """Wait until the group has failed, and return the failure."""
        while self.failure is None:
            await self._failed.wait()
        return self.failure

    def send(self, step: Step, now: float) -> None:
        """Send a step to every rank. Only while `has_capacity`; step numbers are consecutive."""
        self._in_flight.append(_PendingStep())
        self._watchdog.step_sent(expected_seconds(step, self.ready_messages), now)
        self._write(step)

    async def prepare_grammar(self, grammar: str) -> None:
        """Wait until every rank is prepared for rows with `grammar`, or the group has failed."""
        if self.failure:
            return
        number, done = self._grammars.open(grammar)
        self._watchdog.prepare_sent()
        self._write(Prepare(number, grammar))
        await done

    async def load_adapter(self, adapter: int, path: str) -> list[AdapterLoaded]:
        """Every rank's answer, or fewer if the group has failed.

        A disk may be slow, so there is no time limit; a rank that hangs fails by its pings.
        """
        if self.failure:
            return []
        number, done = self._adapters.open(path)
        self._write(LoadAdapter(number, adapter, path))
        return await done

    def unload_adapter(self, adapter: int) -> None:
        """Let every rank forget an adapter that no later step needs."""
        if not self.failure:
            self._write(UnloadAdapter(adapter))

    def is_stalled(self, now: float) -> bool:
        """Whether a rank is silent, or the ranks hang; `check_health` fails a group that hangs."""
        return self._watchdog.is_stalled(now)

    def seconds_since_answers(self, now: float) -> tuple[float, ...]:
        """For each rank the seconds since it last answered a ping or completed a step."""
        return self._watchdog.seconds_since_answers(now)

    def check_health(self, now: float) -> None:
        """Ping the ranks, and fail a group that hangs. To be called several times a second."""
        if self.failure:
            return
        if reason := self._watchdog.hang(now):
            self._fail(reason)
            return
        for rank in self._watchdog.ranks_to_ping(now):
            self._pings += 1
            self._ranks[rank].write(pack(Ping(self._pings)))

    def on_message(self, rank: int, message: Message) -> None:
        """Handle a message of `rank`. Raises ProtocolError if it is not expected."""
        match message:
            case Ready() if rank not in self._ready_messages and message.rank == rank:
                self._on_ready(rank, message)
            case StepResult() if rank == 0:
                self._on_answer(rank, message.number, message.digest, message)
            case Ack() if rank != 0:
                self._on_answer(rank, message.number, message.digest)
            case Pong():
                self._watchdog.ponged(rank, message.progress)
            case Prepared():
                if self._grammars.acknowledge(rank, message.number, message):
                    self._watchdog.prepare_completed()
            case AdapterLoaded():
                self._adapters.acknowledge(rank, message.number, message)
            case Fatal():
                raise ProtocolError(message.text)
            case _:
                raise ProtocolError(f"unexpected {type(message).__name__}")

    def on_disconnect(self, rank: int, reason: str) -> None:
        """Fail the group, since `rank` cannot be used any more."""
        self._fail(f"rank {rank}: {reason}")

    async def _handshake(self, paths: Sequence[str]) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                for rank, path in zip(self._ranks, paths, strict=True):
                    await rank.connect(path)
                await self._all_ready
        except (OSError, TimeoutError) as error:
            reason = str(error) or "no answer"
            raise ShardGroupFailed(f"cannot connect to the shards: {reason}") from error
        if self.failure:
            raise self.failure

    def _write(self, message: Message) -> None:
        """Send `message` to every rank, packed once."""
        frame = pack(message)
        for rank in self._ranks:
            rank.write(frame)

    def _on_ready(self, rank: int, ready: Ready) -> None:
        self._ready_messages[rank] = ready
        if len(self._ready_messages) == len(self._ranks):
            self._all_ready.set_result(None)

    def _on_answer(
        self, rank: int, number: int, digest: int, result: StepResult | None = None
    ) -> None:
        ahead = self._last_answered[rank] - min(self._last_answered)
        if number != self._last_answered[rank] + 1 or ahead >= len(self._in_flight):
            raise ProtocolError(f"Step {number} was answered after {self._last_answered[rank]}")
        step = self._in_flight[ahead]
        if step.digest not in (None, digest):
            raise ProtocolError(f"rows differ between ranks after Step {number}")
        self._last_answered[rank] = number
        step.digest, step.result = digest, step.result or result
        step.answers += 1
        self._watchdog.step_answered(rank)
        if step.answers == len(self._ranks):
            self._complete_step(self._in_flight.popleft())

    def _complete_step(self, step: _PendingStep) -> None:
        if step.result:
            self._watchdog.step_completed(step.result.seconds)
            self._listener(step.result)

    def _fail(self, reason: str) -> None:
        if self.failure:
            return
        self.failure = ShardGroupFailed(reason, tuple(self._grammars.subjects))
        self._close()
        if not self._all_ready.done():
            self._all_ready.set_result(None)
        self._listener(self.failure)

    def _close(self) -> None:
        self.failure = self.failure or ShardGroupFailed("closed")
        self._failed.set()
        self._grammars.cancel_all()
        self._adapters.cancel_all()
        for rank in self._ranks:
            rank.close()
