"""Ranks inside the test: each says what the test says, and keeps every byte it was sent."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from router.shards.group import Report, ShardGroup
from shard.wire.protocol import HEADER, Hello, Message, Ready, length, pack, unpack


class ScriptedRank:
    """Answers Hello with Ready; all else is up to the test."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.sent = bytearray()
        """Every byte that came after Hello."""
        self._heard: asyncio.Queue[Message | None] = asyncio.Queue()
        self._writer: asyncio.StreamWriter | None = None
        self._ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        try:
            while True:
                header = await reader.readexactly(HEADER)
                body = await reader.readexactly(length(header))
                self._hear(header + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._heard.put_nowait(None)
        finally:
            writer.close()
            self._ended.set()

    def say(self, *messages: Message) -> None:
        self.say_bytes(b"".join(map(pack, messages)))

    def say_bytes(self, data: bytes) -> None:
        assert self._writer
        self._writer.write(data)

    def hang_up(self) -> None:
        assert self._writer
        self._writer.close()

    async def heard(self) -> Message | None:
        """The next message after Hello; None at the connection's end."""
        return await self._heard.get()

    async def ended(self) -> None:
        """Wait for the connection's end, if there was one."""
        if self._writer:
            await self._ended.wait()

    def greet(self, hello: Hello) -> None:
        self.say(ready(self.number))

    def _hear(self, frame: bytes) -> None:
        message = unpack(frame[HEADER:])
        if isinstance(message, Hello):
            self.greet(message)
        else:
            self.sent += frame
            self._heard.put_nowait(message)


def ready(number: int) -> Ready:
    return Ready(number, "m", "cpu", "float32", 16, 64, 8, 128, 300, 3, 0.001, 0.01)


@asynccontextmanager
async def listening(*ranks: ScriptedRank) -> AsyncIterator[list[str]]:
    """The socket paths of `ranks`."""
    with tempfile.TemporaryDirectory(prefix="laps-") as folder:
        paths = [str(Path(folder, f"{rank.number}.sock")) for rank in ranks]
        async with AsyncExitStack() as stack:
            for rank, path in zip(ranks, paths, strict=True):
                server = await asyncio.start_unix_server(rank.serve, path)
                await stack.enter_async_context(server)
            yield paths
        for rank in ranks:
            await rank.ended()


@asynccontextmanager
async def group_of(
    *ranks: ScriptedRank,
) -> AsyncIterator[tuple[ShardGroup, asyncio.Queue[Report]]]:
    """A group over `ranks`, and what it reports."""
    reports: asyncio.Queue[Report] = asyncio.Queue()
    async with listening(*ranks) as paths, ShardGroup.connect(paths) as group:
        group.subscribe(reports.put_nowait)
        yield group, reports
