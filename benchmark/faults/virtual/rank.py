"""One rank as `shard.server` serves, in virtual time: Steps in number order, pings at any time.

Rule: decides when a Step ends and what a faulty rank does; the echo engine decides the answers. A
Step that breaks a rule of the engine is the router's fault, and reported as a violation.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf, isfinite
from random import Random

from benchmark.faults.virtual.engine import PoisonedEcho
from benchmark.faults.virtual.faults import SLOW_SECONDS, Fate, Fault
from benchmark.faults.virtual.network import VirtualNetwork, VirtualTransport
from benchmark.faults.virtual.requests import DEADLY_GRAMMAR, HANGING_GRAMMAR
from shard.config import ShardConfig
from shard.wire.protocol import (
    HEADER_BYTES,
    Ack,
    Fatal,
    Hello,
    Message,
    Ping,
    Pong,
    Prepare,
    Prepared,
    ProtocolError,
    Step,
    StepResult,
    body_length,
    pack,
    unpack,
)

STEP_SECONDS, PREFILL_SECONDS, ROUND_SECONDS, DRAFT_SECONDS = 0.002, 0.0002, 0.002, 0.0005
"""What a Step takes: alone, per prompt token, per row that decodes, per draft."""
MAX_LOAD_SECONDS, MAX_PREPARE_SECONDS = 3.0, 0.2
PROGRESS_PER_SECOND = 20.0
MAX_PROGRESS_PER_STEP = 1 << 20

_unpack = lru_cache(maxsize=8)(unpack)
"""All ranks get the same frames."""


@dataclass(frozen=True, slots=True)
class RankOwner:
    """Functions that a rank calls when it is ready, when it exits, and on a violation."""

    on_ready: Callable[[VirtualRank], None]
    on_exit: Callable[[VirtualRank], None]
    on_violation: Callable[[str], None]


class VirtualRank(asyncio.Protocol):
    """The process of one rank, which serves one connection."""

    def __init__(
        self, config: ShardConfig, fate: Fate, network: VirtualNetwork, random: Random
    ) -> None:
        self._number, self._path = config.rank, config.socket
        self._fate, self._network, self._random = fate, network, random
        if fate.fault is Fault.SHRINKAGE:
            config = replace(config, max_batch_total_tokens=config.max_total_tokens)
        self._engine = PoisonedEcho(config)
        self._empty_digest = self._engine.digest()
        self._alive = True
        self._events = 0
        self._stopped = self._stalled = self._truncated = False
        self._repeated = self._contradictory = self._slow = False
        self._transport: VirtualTransport | None = None
        self._buffer = bytearray()
        self._steps: deque[Step] = deque()
        self._started = self._finished = 0
        self._began = self._prepared_at = 0.0

    def start(self, owner: RankOwner) -> None:
        """Begin to load."""
        self._owner, self._loop = owner, asyncio.get_running_loop()
        self._loop.call_later(self._random.uniform(0.1, MAX_LOAD_SECONDS), self._on_loaded)

    def kill(self) -> None:
        """End the process at once."""
        self._alive = False
        self._network.close(self._path)
        if self._transport:
            self._transport.abort()

    @property
    def is_empty(self) -> bool:
        """Whether no Step is queued and no row is held."""
        return not self._steps and self._engine.digest() == self._empty_digest

    def _on_loaded(self) -> None:
        if self._survives():
            self._network.listen(self._path, lambda: self)
            self._owner.on_ready(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, VirtualTransport)  # noqa: S101  narrows the type
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= HEADER_BYTES:
            end = HEADER_BYTES + body_length(bytes(self._buffer[:HEADER_BYTES]))
            if len(self._buffer) < end:
                return
            message = _unpack(bytes(self._buffer[HEADER_BYTES:end]))
            del self._buffer[:end]
            if self._survives():
                self._handle(message)

    def _handle(self, message: Message) -> None:
        match message:
            case Hello():
                self._send(self._engine.ready())
            case Ping(nonce):
                self._send(Pong(nonce, self._finished, self._progress()))
            case Prepare():
                self._prepare(message)
            case Step():
                self._steps.append(message)
                if len(self._steps) == 1:
                    self._start_step()

    def _prepare(self, request: Prepare) -> None:
        """Prepare one grammar after the other, in their order."""
        if request.grammar == DEADLY_GRAMMAR:
            return self._exit()
        seconds = self._random.uniform(0.0, MAX_PREPARE_SECONDS)
        seconds += inf if request.grammar == HANGING_GRAMMAR else 0.0
        self._prepared_at = max(self._prepared_at, self._loop.time()) + seconds
        if isfinite(self._prepared_at):
            self._loop.call_at(self._prepared_at, self._on_prepared, request.number)

    def _on_prepared(self, number: int) -> None:
        if self._survives():
            self._send(Prepared(number))

    def _start_step(self) -> None:
        if not self._survives() or self._stalled:
            return
        step = self._steps[0]
        try:
            if step.number != self._started + 1:
                raise ProtocolError(f"Step {step.number} follows Step {self._started}")
            result = self._engine.execute(step)
        except ProtocolError as error:
            self._owner.on_violation(f"rank {self._number}: {error}")
            return self._exit()
        self._started, self._began = step.number, self._loop.time()
        seconds = self._step_seconds(step)
        self._loop.call_later(seconds, self._finish_step, replace(result, seconds=seconds))

    def _step_seconds(self, step: Step) -> float:
        """What `step` takes on this rank."""
        slow, self._slow = SLOW_SECONDS * self._slow, False
        usual = STEP_SECONDS + sum(
            work.prefill * PREFILL_SECONDS
            if work.prefill
            else ROUND_SECONDS + work.draft * DRAFT_SECONDS
            for work in step.run
        )
        return slow + usual * self._random.uniform(0.8, 1.5)

    def _finish_step(self, result: StepResult) -> None:
        if not self._survives() or self._stalled:
            return
        self._finished = result.number
        if self._contradictory:
            result = replace(result, digest=result.digest ^ 1)
        answer = result if self._number == 0 else Ack(result.number, result.digest)
        for _ in range(1 + self._repeated):
            self._send(answer)
        self._repeated = False
        self._steps.popleft()
        if self._steps:
            self._start_step()

    def _progress(self) -> int:
        """A count that changes while a Step computes, and only then."""
        if self._stalled:
            return -1
        seconds = self._loop.time() - self._began if self._steps else 0.0
        return self._finished * MAX_PROGRESS_PER_STEP + int(seconds * PROGRESS_PER_SECOND)

    def _send(self, message: Message) -> None:
        if not self._transport or not self._alive:
            return
        frame = pack(message)
        if self._truncated:
            self._transport.write(frame[: self._random.randrange(len(frame))])
            self._exit()
        else:
            self._transport.write(frame)

    def _exit(self) -> None:
        self.kill()
        self._loop.call_later(self._network.delay(), self._owner.on_exit, self)

    def _survives(self) -> bool:
        """Count an event; whether the rank still does what follows from it."""
        if not self._alive or self._stopped:
            return False
        self._events += 1
        if self._fate.fault is not None and self._events == self._fate.event + 1:
            self._suffer(self._fate.fault)
        return self._alive and not self._stopped

    def _suffer(self, fault: Fault) -> None:
        match fault:
            case Fault.DEATH:
                self._exit()
            case Fault.FATAL:
                self._send(Fatal(1, "it failed"))
                self._exit()
            case Fault.CUT if self._transport:
                self._transport.abort()
            case Fault.JUNK if self._transport:
                self._transport.write(self._random.randbytes(self._random.randrange(1, 40)))
            case Fault.TRUNCATION:
                self._truncated = True
            case Fault.STOP:
                self._stopped = True
            case Fault.STALL:
                self._stalled = True
            case Fault.REPETITION:
                self._repeated = True
            case Fault.CONTRADICTION:
                self._contradictory = True
            case Fault.SLOWNESS:
                self._slow = True
