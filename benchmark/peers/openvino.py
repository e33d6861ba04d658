"""openvino-genai's continuous batching, in a process of its own without HTTP.

It reads float32 and bfloat16 weights from no GGUF file, so it gets them in float16, and computes in
the precision of the others.
"""

from __future__ import annotations

import json
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from benchmark.peers.http_peer import child, line_with
from benchmark.peers.llama_cpp import PROGRAMS, gguf_of
from benchmark.peers.peer import PeerOptions


class OpenVino:
    """Sends one line for each call, and reads one."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def complete(self, prompts: Sequence[str], new_tokens: int) -> int:
        """See `Peer`."""
        assert self._process.stdin  # noqa: S101  narrows the type
        call = json.dumps({"prompts": prompts, "new_tokens": new_tokens})
        self._process.stdin.write(call.encode() + b"\n")
        await self._process.stdin.drain()
        return int(await line_with(self._process, "tokens "))


@asynccontextmanager
async def started(options: PeerOptions) -> AsyncIterator[OpenVino]:
    """See `StartPeer`."""
    file = await gguf_of(options, "float16")
    program = str(PROGRAMS / "openvino_batching.py")
    async with child(str(options.python), program, str(file), options.dtype) as process:
        await line_with(process, "ready")
        yield OpenVino(process)
