"""Ranks in the test's own process: each sends what the test says and records what it receives."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from router.shards.group import GroupEvent, ShardGroup
from shard.wire.protocol import HEADER_BYTES, Hello, Message, Ready, body_length, pack, unpack


class ScriptedRank:
    """Answers Hello with Ready; the test sends everything else."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.received = bytearray()
        """Every byte received after Hello."""
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        self._writer: asyncio.StreamWriter | None = None
        self._closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        try:
            while True:
                header = await reader.readexactly(HEADER_BYTES)
                body = await reader.readexactly(body_length(header))
                self._on_frame(header + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._messages.put_nowait(None)
        finally:
            writer.close()
            self._closed.set()

    def send(self, *messages: Message) -> None:
        self.send_bytes(b"".join(map(pack, messages)))

    def send_bytes(self, data: bytes) -> None:
        assert self._writer
        self._writer.write(data)

    def disconnect(self) -> None:
        assert self._writer
        self._writer.close()

    async def next_message(self) -> Message | None:
        """Return the next message after Hello; None at the end of the connection."""
        return await self._messages.get()

    async def wait_closed(self) -> None:
        """Wait until the connection has closed, if there was one."""
        if self._writer:
            await self._closed.wait()

    def greet(self, hello: Hello) -> None:
        self.send(ready_message(self.number))

    def _on_frame(self, frame: bytes) -> None:
        message = unpack(frame[HEADER_BYTES:])
        if isinstance(message, Hello):
            self.greet(message)
        else:
            self.received += frame
            self._messages.put_nowait(message)


def ready_message(number: int) -> Ready:
    return Ready(number, "m", "cpu", "float32", 16, 64, 8, 128, 300, 3, 0.001, 0.01)


@asynccontextmanager
async def listening(*ranks: ScriptedRank) -> AsyncIterator[list[str]]:
    """Let `ranks` listen; yield their socket paths."""
    with tempfile.TemporaryDirectory(prefix="laps-") as folder:
        paths = [str(Path(folder, f"{rank.number}.sock")) for rank in ranks]
        async with AsyncExitStack() as stack:
            for rank, path in zip(ranks, paths, strict=True):
                server = await asyncio.start_unix_server(rank.serve, path)
                await stack.enter_async_context(server)
            yield paths
        for rank in ranks:
            await rank.wait_closed()


@asynccontextmanager
async def connected_group(
    *ranks: ScriptedRank,
) -> AsyncIterator[tuple[ShardGroup, asyncio.Queue[GroupEvent]]]:
    """Connect a group to `ranks`; yield it and its events."""
    reports: asyncio.Queue[GroupEvent] = asyncio.Queue()
    async with listening(*ranks) as paths, ShardGroup.connect(paths) as group:
        group.set_listener(reports.put_nowait)
        yield group, reports
