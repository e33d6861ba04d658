"""Encodes text off the event loop: short texts in a thread, long ones in a worker process.

A thread would hold the GIL while a million token ids become Python integers, and while the
tokenizer's own list of them is freed. From a process they arrive as plain bytes. Long texts have
workers of their own, so that only they wait for each other.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from typing import TypeVar

from router.errors import ValidationError
from router.text.job_errors import JobRejected, WorkerLimitExceeded
from router.text.tokenizer import TokenizationError, Tokenizer
from router.text.worker_pool import WorkerPool

LONG_TEXT_CHARACTERS = 1 << 15
"""A text with at least this many characters is encoded in a worker process."""
LONG_TEXT_SECONDS = 60.0
"""Time limit for one such text."""

Result = TypeVar("Result")


class Encoder:
    """Encodes with `tokenizer`, or with `workers` that have loaded the same one."""

    def __init__(self, tokenizer: Tokenizer, workers: WorkerPool) -> None:
        """`workers` should do nothing else."""
        self.tokenizer = tokenizer
        _ = tokenizer.max_token_bytes  # looks at the whole vocabulary, which takes a while
        self._workers = workers

    async def encode(self, text: str, add_special_tokens: bool = True) -> Sequence[int]:
        """The token ids of `text`, int32. Raises ValidationError if it cannot be encoded.

        With `add_special_tokens`, those that the tokenizer adds, such as BOS, are included.
        """
        if len(text) < LONG_TEXT_CHARACTERS:
            return await self._in_thread(self.tokenizer.encode, text, add_special_tokens)
        ids = array("i")
        for part in await self._in_worker("encode", text, add_special_tokens):
            ids.frombytes(part)
        return ids

    async def tokens_with_offsets(self, text: str, add_special_tokens: bool = True) -> list[bytes]:
        """The JSON body of `/tokenize` in chunks. Raises ValidationError."""
        if len(text) < LONG_TEXT_CHARACTERS:
            return [
                await self._in_thread(self.tokenizer.tokens_with_offsets, text, add_special_tokens)
            ]
        return await self._in_worker("tokens_with_offsets", text, add_special_tokens)

    async def _in_thread(
        self, work: Callable[[str, bool], Result], text: str, add_special_tokens: bool
    ) -> Result:
        try:
            return await asyncio.to_thread(work, text, add_special_tokens)
        except TokenizationError as error:
            raise ValidationError(f"tokenizer error {error}") from error

    async def _in_worker(self, job: str, text: str, add_special_tokens: bool) -> list[bytes]:
        try:
            return await self._workers.run_chunked(
                job, LONG_TEXT_SECONDS, text=text, add_special_tokens=add_special_tokens
            )
        except JobRejected as error:
            raise ValidationError(f"tokenizer error {error}") from error
        except WorkerLimitExceeded as error:
            raise ValidationError("tokenizer error it takes too much time or memory") from error
