"""From text to token ids, off the loop: short texts in a thread, long ones in a worker process.

A thread would hold the interpreter's lock while a million tokens become Python's numbers, and
while the tokenizer's own list of them is given back; from a process they come as plain bytes.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from typing import TypeVar

from router.errors import ValidationError
from router.text.chat_template import JobRejected
from router.text.tokenizer import TokenizationError, Tokenizer
from router.text.worker_pool import WorkerLimitExceeded, WorkerPool

LONG_TEXT_CHARACTERS = 1 << 15
"""Characters from which a text is long."""
LONG_TEXT_SECONDS = 60.0
"""For one long text."""


Result = TypeVar("Result")


class Encoder:
    """Encodes with `vocabulary`, and with `workers` that have the same one."""

    def __init__(self, tokenizer: Tokenizer, workers: WorkerPool) -> None:
        self.tokenizer = tokenizer
        self._workers = workers

    async def encode(self, text: str, add_special_tokens: bool = True) -> Sequence[int]:
        """Token ids of `text`, with the tokenizer's own around them if `special`.

        Raises ValidationError.
        """
        if len(text) < LONG_TEXT_CHARACTERS:
            return await self._in_thread(self.tokenizer.encode, text, add_special_tokens)
        ids = array("i")
        for part in await self._in_worker("encode", text, add_special_tokens):
            ids.frombytes(part)
        return ids

    async def tokens_with_offsets(self, text: str, add_special_tokens: bool = True) -> list[bytes]:
        """Body of `/tokenize`, part by part. Raises ValidationError."""
        if len(text) < LONG_TEXT_CHARACTERS:
            return [
                await self._in_thread(self.tokenizer.tokens_with_offsets, text, add_special_tokens)
            ]
        return await self._in_worker("spans", text, add_special_tokens)

    async def _in_thread(
        self, work: Callable[[str, bool], Result], text: str, add_special_tokens: bool
    ) -> Result:
        try:
            return await asyncio.to_thread(work, text, add_special_tokens)
        except TokenizationError as fault:
            raise ValidationError(f"tokenizer error {fault}") from fault

    async def _in_worker(self, job: str, text: str, add_special_tokens: bool) -> list[bytes]:
        try:
            return await self._workers.run_chunked(
                job, LONG_TEXT_SECONDS, text=text, special=add_special_tokens
            )
        except JobRejected as fault:
            raise ValidationError(f"tokenizer error {fault}") from fault
        except WorkerLimitExceeded as fault:
            raise ValidationError("tokenizer error it takes too much time or memory") from fault
