"""A shard's socket: one router at a time, its Steps in number order, its pings at once.

The main thread executes; a reader thread per connection decodes frames, queues Steps and answers
pings, so that a pong says that the process lives even during a long Step. A third thread prepares
what rows to come will need, beside the Steps. An engine may start a Step and go on to the next: a
result is sent when its Step has landed, in the order of numbers. What cannot be parsed ends the
connection. What cannot be executed ends the process, after a `Fatal` to the router: the
ranks of a group work in lockstep, and one that has failed cannot be rejoined. A lost router costs
the rows, never the weights. This file knows nothing of models.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Protocol

from shard.config import ShardConfig
from shard.step_handle import Flight
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
from shard.wire.sockets import listening, uid

_log = logging.getLogger(__name__)

GREETING_SECONDS = 10.0
"""Time for a connected router to say Hello."""
POLL_SECONDS = 1e-4
"""Between two looks at whether a Step has landed, while no other Step arrives."""
BACKLOG = 8
"""Most Steps that wait in a rank; a router that keeps to its two in flight never meets it."""


class Engine(Protocol):
    """What a shard serves; used by one thread, but for `prepare`."""

    def ready(self) -> Ready:
        """What this rank serves and can hold."""

    def start(self, step: Step) -> Flight:
        """Begin one Step, the next in number; whatever this or the flight raises ends the process.

        Every rank's result has the digest.
        """

    def prepare(self, grammar: str) -> None:
        """Have `grammar` ready for rows to come, beside the Steps; whatever it raises ends all."""

    def reset(self) -> None:
        """Forget every row: the next Step is number 1 of a new router."""


def serve(engine: Engine, config: ShardConfig, ready: Callable[[], None]) -> None:
    """Serve one router after another, until the engine or a signal handler raises.

    `ready` is called once the socket listens. Raises Fault if the socket cannot be made.
    """
    with listening(config.socket) as listener:
        ready()
        while True:
            connection, _ = listener.accept()
            with connection:
                _serve_router(connection, engine, config)
            engine.reset()


def _serve_router(connection: socket.socket, engine: Engine, config: ShardConfig) -> None:
    router = _Router(connection, engine.prepare)
    try:
        router.greet(engine.ready(), config)
    except (ProtocolError, OSError) as fault:
        _log.warning("refused a connection: %s", fault)
        return
    reader = Thread(target=router.read, name="reader", daemon=True)
    try:
        reader.start()
        router.execute(engine, config.rank)
    finally:
        router.close()
        if reader.is_alive():
            reader.join()
        router.forget()


class _Router:
    """One connection. `read` and what it calls run in the reader thread, the rest in the main."""

    def __init__(self, connection: socket.socket, prepare: Callable[[str], None]) -> None:
        self._connection = connection
        self._prepare = prepare
        self._writing = Lock()
        self._steps: SimpleQueue[Step | BaseException | None] = SimpleQueue()
        self._preparing = ThreadPoolExecutor(1, "preparer")
        self._started = self._finished = 0
        self._open = True
        """Whether the main thread has more to do."""
        self._closed = False

    def greet(self, ready: Ready, config: ShardConfig) -> None:
        """Check who connects and what it expects, and answer with `ready`.

        Raises ProtocolError or OSError if it is not the router of this group.
        """
        if uid(self._connection) != os.getuid():
            raise ProtocolError("the peer is another user")
        self._connection.settimeout(GREETING_SECONDS)
        hello, expected = self._receive(), Hello(VERSION, config.rank, config.world)
        if hello != expected:
            raise ProtocolError(f"expected {expected}, found {hello}")
        self._send(ready)
        self._connection.settimeout(None)

    def read(self) -> None:
        """Queue Steps and answer pings until the connection ends."""
        try:
            while message := self._receive():
                self._take(message)
        except (ProtocolError, OSError) as fault:
            if not self._closed:
                _log.warning("dropped the router: %s", fault)
        finally:
            self.close()
            self._steps.put(None)

    def execute(self, engine: Engine, rank: int) -> None:
        """Execute Steps until the connection ends. Raises whatever the engine raises."""
        flights: deque[Flight] = deque()
        with self._fatal():
            while self._open:
                if flights and flights[0].landed():
                    self._answer(flights.popleft().result(), rank)
                elif step := self._next(POLL_SECONDS if flights else None):
                    flights.append(self._start(engine, step))

    def close(self) -> None:
        """End the connection for both sides; wakes whoever reads from it."""
        self._closed = True
        with suppress(OSError):  # the router may be gone already
            self._connection.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Prepare nothing more; waits for what is being prepared."""
        self._preparing.shutdown(cancel_futures=True)

    @contextmanager
    def _fatal(self) -> Iterator[None]:
        """What is raised inside is told to the router."""
        try:
            yield
        except Exception as fault:
            with suppress(OSError):  # the fault is raised in any case
                self._send(Fatal(1, f"{type(fault).__name__}: {fault}".splitlines()[0]))
            raise

    def _next(self, seconds: float | None) -> Step | None:
        """The next Step, if one arrives in time and the connection does not end.

        Raises what the preparing thread met.
        """
        try:
            step = self._steps.get(timeout=seconds)
        except Empty:
            return None
        if isinstance(step, BaseException):
            raise step
        self._open = step is not None
        return step

    def _start(self, engine: Engine, step: Step) -> Flight:
        if step.number != self._started + 1:
            raise ProtocolError(f"Step {step.number} follows Step {self._started}")
        self._started = step.number
        return engine.start(step)

    def _answer(self, result: StepResult, rank: int) -> None:
        self._finished = result.number
        try:
            self._send(result if rank == 0 else Ack(result.number, result.digest))
        except OSError:
            self._open = False  # the router is gone, and with it the meaning of all queued Steps

    def _take(self, message: Message) -> None:
        match message:
            case Ping(nonce):
                self._send(Pong(nonce, self._finished))
            case Step() if self._steps.qsize() < BACKLOG:
                self._steps.put(message)
            case Prepare():
                work = self._preparing.submit(self._do, message)
                work.add_done_callback(self._done)
            case Step():
                raise ProtocolError(f"more than {BACKLOG} Steps wait")
            case _:
                raise ProtocolError(f"a router does not send {type(message).__name__}")

    def _do(self, wish: Prepare) -> None:
        self._prepare(wish.grammar)
        with suppress(OSError):  # the router may be gone
            self._send(Prepared(wish.number))

    def _done(self, work: Future[None]) -> None:
        """The main thread raises what the work has met."""
        fault = None if work.cancelled() else work.exception()
        if fault is not None:
            self._steps.put(fault)

    def _receive(self) -> Message | None:
        """The next message, or None if the router closed the connection between two frames."""
        header = self._read_exactly(HEADER)
        return unpack(self._read_exactly(length(header), inside=True)) if header else None

    def _read_exactly(self, size: int, inside: bool = False) -> bytes:
        """`size` bytes, or none at a clean end. Raises ProtocolError for an end within a frame."""
        data = bytearray()
        while len(data) < size:
            part = self._connection.recv(min(size - len(data), 1 << 20))
            if not part and (data or inside):
                raise ProtocolError("the connection ended within a frame")
            if not part:
                break
            data += part
        return bytes(data)

    def _send(self, message: Message) -> None:
        with self._writing:
            self._connection.sendall(pack(message))
