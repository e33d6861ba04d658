"""llama.cpp: the server of `xllamacpp`, with a GGUF file of the same weights and precision."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmark.peers.http_peer import HttpPeer, child, http_peer, line_with
from benchmark.peers.peer import MAX_CLIENTS, MAX_TOKENS, PeerFailed, PeerOptions
from shard.cores import available_cores

PROGRAMS = Path(__file__).with_name("programs")
"""What runs in the environments of the peers."""


@asynccontextmanager
async def started(options: PeerOptions) -> AsyncIterator[HttpPeer]:
    """See `StartPeer`."""
    file = await gguf_of(options, options.dtype)
    sizes = (str(MAX_CLIENTS), str(MAX_CLIENTS * MAX_TOKENS), str(available_cores()))
    program = str(PROGRAMS / "llama_cpp_server.py")
    async with child(str(options.python), program, str(file), *sizes) as process:
        url = await line_with(process, "listening on ")
        async with http_peer(url, {"ignore_eos": True, "cache_prompt": False}) as peer:
            yield peer


async def gguf_of(options: PeerOptions, dtype: str) -> Path:
    """The model as GGUF in the precision `dtype`; written once. Raises PeerFailed."""
    file = options.folder / f"{options.gguf.stem}-{dtype}.gguf"
    if not file.exists():
        program = str(PROGRAMS / "write_gguf.py")
        arguments = (str(options.gguf), str(file), dtype)
        writing = await asyncio.create_subprocess_exec(str(options.python), program, *arguments)
        if await writing.wait():
            raise PeerFailed(f"{options.gguf} cannot be written in {dtype}")
    return file
