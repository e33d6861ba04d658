"""A pool of worker processes with time limits, for jobs that may never end.

A job goes to an idle worker, or waits for one. The kernel kills a worker that exceeds its time or
memory, which shows here as the end of its output; the next job gets a new worker. A result is read
in chunks, so that a large one does not block the event loop.
"""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from router import exact_json
from router.text.job_errors import JobRejected, WorkerLimitExceeded
from shard.child_command import python_command, python_environment

CHUNK_BYTES = 1 << 18
"""Maximum number of bytes of a result that are read at once."""


@dataclass(frozen=True, slots=True)
class WorkerFiles:
    """The files that the workers load."""

    folder: str
    """The model's folder, with `tokenizer.json` and the chat template."""
    vocab_size: int
    """Size of the model's logits, which may exceed that of the tokenizer."""
    tokenizer_config: str | None = None
    """File that replaces the folder's `tokenizer_config.json`."""


class WorkerPool:
    """At most `count` processes, started on demand; `close` ends them."""

    def __init__(self, files: WorkerFiles, count: int = 2, seconds: float = 2.0) -> None:
        """`seconds` is the time limit of a job."""
        self._arguments = json.dumps([files.folder, files.vocab_size, files.tokenizer_config])
        self._job_seconds = seconds
        self._slots = asyncio.Semaphore(count)
        self._idle: list[Process] = []

    async def run_job(self, job: str, **values: Any) -> str:
        """Run `job` with `values`; return its result as text. Raises as `run_chunked` does."""
        return b"".join(await self.run_chunked(job, **values)).decode()

    async def run_chunked(
        self, job: str, seconds: float | None = None, **values: Any
    ) -> list[bytes]:
        """Run `job` with `values`; return the bytes of its result in chunks.

        `seconds` replaces the pool's time limit. Raises JobRejected, or WorkerLimitExceeded if the
        job exceeded its time or memory, or its worker died.
        """
        limit = self._job_seconds if seconds is None else seconds
        line = exact_json.dumps({"job": job, "seconds": limit, **values}) + b"\n"
        async with self._slots:
            return await self._run_line(line)

    async def prestart(self) -> None:
        """Start one worker, so that the first job does not wait for it."""
        async with self._slots:
            if not self._idle:
                self._idle.append(await self._start())

    async def close(self) -> None:
        """Kill the idle workers."""
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
            *python_command("router.text.worker", self._arguments),
            stdin=PIPE,
            stdout=PIPE,
            env=python_environment(os.environ),
            limit=CHUNK_BYTES,
        )


class TextWorkers:
    """The worker processes of one server: some for `jobs`, and another for `long_texts`."""

    def __init__(self, files: WorkerFiles, count: int = 2) -> None:
        """`count`: maximum number of processes for templates and grammars."""
        self.jobs, self.long_texts = WorkerPool(files, count), WorkerPool(files, 1)

    async def prestart(self) -> None:
        """Start one worker for jobs, so that the first one does not wait for it."""
        await self.jobs.prestart()

    async def close(self) -> None:
        """Kill the idle workers."""
        await self.jobs.close()
        await self.long_texts.close()


async def _exchange(worker: Process, line: bytes) -> tuple[Mapping[str, Any], list[bytes]]:
    """Send a job; read the first line of the result, and its bytes in chunks."""
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
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        raise WorkerLimitExceeded from error
    return head, parts


async def _kill(worker: Process) -> None:
    if worker.returncode is None:
        worker.kill()
    await worker.wait()
