"""A shard's socket: one router at a time, Steps in number order, pings answered immediately.

The main thread executes. A reader thread per connection decodes frames, queues Steps and answers
pings, also during a long Step: a pong proves that the process is alive, and its count of progress
that the main thread is. A third thread prepares grammars for future rows. An engine may start a
Step before the last one has finished; a result is sent when its Step has finished, in number order.
What cannot be parsed ends the connection. What cannot be executed ends the process, after a `Fatal`
to the router: the ranks of a group work in lockstep, and a rank that has failed cannot rejoin. When
the router disconnects, the rows are lost and the weights stay. This file knows nothing of models.
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
from typing import Protocol, TypeVar

from shard import progress
from shard.config import ShardConfig
from shard.errors import StartupError
from shard.step_handle import StepHandle
from shard.wire.protocol import (
    HEADER_BYTES,
    VERSION,
    Ack,
    AdapterLoaded,
    Fatal,
    Hello,
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
    body_length,
    pack,
    unpack,
)
from shard.wire.sockets import listening, peer_uid

_log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
"""Time limit for `Hello` after a router has connected."""
POLL_SECONDS = 1e-4
"""Interval at which unfinished Steps are polled while no other Step arrives."""
MAX_QUEUED_STEPS = 8
"""Maximum number of Steps that wait in a rank; a router has at most two in flight."""


AnyRequest = TypeVar("AnyRequest", Prepare, LoadAdapter)


class StepEngine(Protocol):
    """What a shard serves. Used by one thread, except for `prepare` and `load_adapter`."""

    def ready(self) -> Ready:
        """What this rank serves and can hold."""

    def start(self, step: Step) -> StepHandle:
        """Start one Step, the next in number. Any exception, here or in the handle, is fatal.

        The result of every rank has the same digest.
        """

    def prepare(self, grammar: str) -> None:
        """Compile `grammar` for future rows, in another thread. Any exception is fatal."""

    def load_adapter(self, number: int, path: str) -> int:
        """Load the adapter in folder `path` for future rows, in another thread; return its bytes.

        Raises StartupError for one that cannot be served. Any other exception is fatal.
        """

    def unload_adapter(self, number: int) -> None:
        """Forget an adapter that no further row will have."""

    def reset(self) -> None:
        """Forget every row: the next Step is number 1 of a new router."""


def serve(engine: StepEngine, config: ShardConfig, ready: Callable[[], None]) -> None:
    """Serve one router after another, until the engine or a signal handler raises.

    `ready` is called once the socket listens. Raises StartupError if it cannot be created.
    """
    with listening(config.socket) as listener:
        ready()
        while True:
            connection, _ = listener.accept()
            with connection:
                _serve_router(connection, engine, config)
            engine.reset()


def _serve_router(connection: socket.socket, engine: StepEngine, config: ShardConfig) -> None:
    router = _RouterConnection(connection, engine)
    try:
        router.handshake(engine.ready(), config)
    except (ProtocolError, OSError) as fault:
        _log.warning("refused a connection: %s", fault)
        return
    reader = Thread(target=router.read_messages, name="reader", daemon=True)
    try:
        reader.start()
        router.execute_steps(config.rank)
    finally:
        router.close()
        if reader.is_alive():
            reader.join()
        router.stop_preparing()


class _RouterConnection:
    """One connection. `read` and what it calls run in the reader thread, the rest in the main."""

    def __init__(self, connection: socket.socket, engine: StepEngine) -> None:
        self._connection = connection
        self._engine = engine
        self._write_lock = Lock()
        self._steps: SimpleQueue[Step | UnloadAdapter | BaseException | None] = SimpleQueue()
        self._preparer = ThreadPoolExecutor(1, "preparer")
        self._started = self._finished = 0
        self._active = True
        """Whether the main thread has more to do."""
        self._closed = False

    def handshake(self, ready: Ready, config: ShardConfig) -> None:
        """Check who connects and what it expects, and answer with `ready`.

        Raises ProtocolError or OSError if it is not the router of this group.
        """
        if peer_uid(self._connection) != os.getuid():
            raise ProtocolError("the peer is another user")
        self._connection.settimeout(HANDSHAKE_SECONDS)
        hello, expected = self._receive(), Hello(VERSION, config.rank, config.world)
        if hello != expected:
            raise ProtocolError(f"expected {expected}, found {hello}")
        self._send(ready)
        self._connection.settimeout(None)

    def read_messages(self) -> None:
        """Queue Steps and answer pings until the connection ends."""
        try:
            while message := self._receive():
                self._handle(message)
        except (ProtocolError, OSError) as fault:
            if not self._closed:
                _log.warning("dropped the router: %s", fault)
        finally:
            self.close()
            self._steps.put(None)

    def execute_steps(self, rank: int) -> None:
        """Execute Steps until the connection ends. Raises whatever the engine raises."""
        handles: deque[StepHandle] = deque()
        with self._fatal_on_error():
            while self._active:
                if handles and handles[0].is_complete():
                    self._send_result(handles.popleft().result(), rank)
                elif step := self._next_step(POLL_SECONDS if handles else None):
                    handles.append(self._start(step))

    def close(self) -> None:
        """Shut the connection down for both sides, which also wakes the reader thread."""
        self._closed = True
        with suppress(OSError):  # the router may be gone already
            self._connection.shutdown(socket.SHUT_RDWR)

    def stop_preparing(self) -> None:
        """Cancel what has not begun to be prepared, and wait for the rest."""
        self._preparer.shutdown(cancel_futures=True)

    @contextmanager
    def _fatal_on_error(self) -> Iterator[None]:
        """Report any exception inside to the router, then raise it."""
        try:
            yield
        except Exception as fault:
            with suppress(OSError):  # the fault is raised in any case
                self._send(Fatal(1, f"{type(fault).__name__}: {fault}".splitlines()[0]))
            raise

    def _next_step(self, seconds: float | None) -> Step | None:
        """The next Step; None if none arrives in time or the connection ends.

        Raises the exception of a preparation that failed.
        """
        try:
            step = self._steps.get(timeout=seconds)
        except Empty:
            return None
        if isinstance(step, BaseException):
            raise step
        if isinstance(step, UnloadAdapter):
            self._engine.unload_adapter(step.adapter)
            return None
        self._active = step is not None
        return step

    def _start(self, step: Step) -> StepHandle:
        if step.number != self._started + 1:
            raise ProtocolError(f"Step {step.number} follows Step {self._started}")
        self._started = step.number
        progress.advance()
        return self._engine.start(step)

    def _send_result(self, result: StepResult, rank: int) -> None:
        self._finished = result.number
        try:
            self._send(result if rank == 0 else Ack(result.number, result.digest))
        except OSError:
            self._active = False  # the router is gone, so queued Steps mean nothing

    def _handle(self, message: Message) -> None:
        match message:
            case Ping(nonce):
                self._send(Pong(nonce, self._finished, progress.count()))
            case Step() if self._steps.qsize() < MAX_QUEUED_STEPS:
                self._steps.put(message)
            case Prepare():
                self._do_meanwhile(self._prepare_grammar, message)
            case LoadAdapter():
                self._do_meanwhile(self._load_adapter, message)
            case UnloadAdapter():
                self._steps.put(message)
            case Step():
                raise ProtocolError(f"more than {MAX_QUEUED_STEPS} Steps wait")
            case _:
                raise ProtocolError(f"a router does not send {type(message).__name__}")

    def _do_meanwhile(self, work: Callable[[AnyRequest], None], request: AnyRequest) -> None:
        """Do `work` in the preparer thread; its exception is fatal."""
        self._preparer.submit(work, request).add_done_callback(self._on_prepared)

    def _prepare_grammar(self, request: Prepare) -> None:
        self._engine.prepare(request.grammar)
        with suppress(OSError):  # the router may be gone
            self._send(Prepared(request.number))

    def _load_adapter(self, request: LoadAdapter) -> None:
        size, fault = 0, ""
        try:
            size = self._engine.load_adapter(request.adapter, request.path)
        except StartupError as error:
            fault = error.text
        with suppress(OSError):  # the router may be gone
            self._send(AdapterLoaded(request.number, size, fault))

    def _on_prepared(self, work: Future[None]) -> None:
        """Hand the exception of a preparation to the main thread, which raises it."""
        fault = None if work.cancelled() else work.exception()
        if fault is not None:
            self._steps.put(fault)

    def _receive(self) -> Message | None:
        """The next message, or None if the router closed the connection between two frames."""
        header = self._read_exactly(HEADER_BYTES)
        return unpack(self._read_exactly(body_length(header), inside=True)) if header else None

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
        with self._write_lock:
            self._connection.sendall(pack(message))
