"""Worker processes and their time limits: what may not end never runs in this process.

A job goes to an idle worker or waits for one. A worker that runs out of time or memory is ended by
the kernel, which is seen here as the end of its output; the next job gets a fresh one. An answer of
any size arrives in parts, none of which takes the loop long.
"""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from router.text.chat_template import JobRejected

CHUNK_BYTES = 1 << 18
"""Most bytes of an answer that are read at once."""


class WorkerLimitExceeded(Exception):
    """A job took more time or memory than it may."""


@dataclass(frozen=True, slots=True)
class WorkerFiles:
    """What the workers work for."""

    folder: str
    """Holds `tokenizer.json`, and the chat template."""
    vocab_size: int
    tokenizer_config: str | None = None
    """Read in place of the folder's `tokenizer_config.json`."""


class WorkerPool:
    """At most `count` processes, started as they are needed; `close` ends them."""

    def __init__(self, files: WorkerFiles, count: int = 2, seconds: float = 2.0) -> None:
        """`seconds`: for one job."""
        self._arguments = json.dumps([files.folder, files.vocab_size, files.tokenizer_config])
        self._job_seconds = seconds
        self._slots = asyncio.Semaphore(count)
        self._idle: list[Process] = []

    async def run_job(self, job: str, **values: Any) -> str:
        """The text that `job` makes of `values`. Raises Refused or WorkerLimitExceeded."""
        return b"".join(await self.run_chunked(job, **values)).decode()

    async def run_chunked(
        self, job: str, seconds: float | None = None, **values: Any
    ) -> list[bytes]:
        """The bytes that `job` makes of `values`, part by part. Raises Refused or
        WorkerLimitExceeded.

        `seconds`: for this job alone.
        """
        time = self._job_seconds if seconds is None else seconds
        line = orjson.dumps({"job": job, "seconds": time, **values}) + b"\n"
        async with self._slots:
            return await self._run_line(line)

    async def prestart(self) -> None:
        """Start one worker, so that the first job need not wait for it."""
        async with self._slots:
            if not self._idle:
                self._idle.append(await self._start())

    async def close(self) -> None:
        """End all that wait for work."""
        while self._idle:
            await _kill(self._idle.pop())

    async def _run_line(self, line: bytes) -> list[bytes]:
        worker = self._idle.pop() if self._idle else await self._start()
        try:
            head, parts = await _exchange(worker, line)
        except BaseException:
            await _kill(worker)
            raise
        self._idle.append(worker)
        if "error" in head:
            raise JobRejected(head["error"], head["variable"])
        return parts

    async def _start(self) -> Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "router.text.worker", self._arguments),
            stdin=PIPE,
            stdout=PIPE,
            limit=CHUNK_BYTES,
        )


async def _exchange(worker: Process, line: bytes) -> tuple[Mapping[str, Any], list[bytes]]:
    """The head of the answer, and its bytes."""
    assert worker.stdin  # noqa: S101 - by construction
    assert worker.stdout  # noqa: S101
    try:
        worker.stdin.write(line)
        await worker.stdin.drain()
        head: Mapping[str, Any] = orjson.loads(await worker.stdout.readline() or b"null")
        if not head:
            raise WorkerLimitExceeded
        left, parts = head["size"], []
        while left:
            parts.append(await worker.stdout.readexactly(min(left, CHUNK_BYTES)))
            left -= len(parts[-1])
    except (ConnectionError, asyncio.IncompleteReadError) as fault:
        raise WorkerLimitExceeded from fault
    return head, parts


async def _kill(worker: Process) -> None:
    if worker.returncode is None:
        worker.kill()
    await worker.wait()
