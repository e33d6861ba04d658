"""A peer that speaks OpenAI's completions over HTTP, and the process that it is.

Rule: decides how such a server is called and ended; must not know which one it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from benchmark.peers.peer import PeerFailed

TIMEOUT_SECONDS = 170.0
"""Time limit of a start, and of the answers to one call."""


class HttpPeer:
    """Calls `/v1/completions`, with the fields of `body` in every request."""

    def __init__(self, session: aiohttp.ClientSession, body: Mapping[str, Any]) -> None:
        self._session, self._body = session, body

    async def complete(self, prompts: Sequence[str], new_tokens: int) -> int:
        """See `Peer`."""
        return sum(await asyncio.gather(*(self._complete(text, new_tokens) for text in prompts)))

    async def _complete(self, prompt: str, new_tokens: int) -> int:
        body = {**self._body, "prompt": prompt, "max_tokens": new_tokens, "temperature": 0}
        try:
            async with self._session.post("/v1/completions", json=body) as response:
                if response.status != 200:
                    raise PeerFailed(await response.text())
                return int((await response.json())["usage"]["completion_tokens"])
        except (aiohttp.ClientError, TimeoutError) as error:
            raise PeerFailed(repr(error)) from error


@asynccontextmanager
async def http_peer(url: str, body: Mapping[str, Any]) -> AsyncIterator[HttpPeer]:
    """A peer that listens on `url`."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(url, timeout=timeout) as session:
        yield HttpPeer(session, body)


@asynccontextmanager
async def child(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process with pipes for stdin and stdout, killed when the context ends."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=1 << 20,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def line_with(process: asyncio.subprocess.Process, mark: str) -> str:
    """The rest of the next line of stdout that begins with `mark`. Raises PeerFailed."""
    assert process.stdout  # noqa: S101  narrows the type
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            async for line in process.stdout:
                text = line.decode(errors="replace").strip()
                if text.startswith(mark):
                    return text.removeprefix(mark)
    except TimeoutError:
        pass
    raise PeerFailed(f"no line with {mark!r} in {TIMEOUT_SECONDS} s")
