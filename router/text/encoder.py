"""From text to token ids, off the loop: short texts in a thread, long ones in a worker process.

A thread would hold the interpreter's lock while a million tokens become Python's numbers, and
while the tokenizer's own list of them is given back; from a process they come as plain bytes.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from typing import TypeVar

from router.errors import Invalid
from router.text.chat_template import Refused
from router.text.tokenizer import Unreadable, Vocabulary
from router.text.worker_pool import Exhausted, Workers

LONG = 1 << 15
"""Characters from which a text is long."""
SECONDS = 60.0
"""For one long text."""


Made = TypeVar("Made")


class Encoder:
    """Encodes with `vocabulary`, and with `workers` that have the same one."""

    def __init__(self, vocabulary: Vocabulary, workers: Workers) -> None:
        self.vocabulary = vocabulary
        self._workers = workers

    async def encode(self, text: str, special: bool = True) -> Sequence[int]:
        """Token ids of `text`, with the tokenizer's own around them if `special`.

        Raises Invalid.
        """
        if len(text) < LONG:
            return await self._aside(self.vocabulary.encode, text, special)
        ids = array("i")
        for part in await self._parts("encode", text, special):
            ids.frombytes(part)
        return ids

    async def spans(self, text: str, special: bool = True) -> list[bytes]:
        """Body of `/tokenize`, part by part. Raises Invalid."""
        if len(text) < LONG:
            return [await self._aside(self.vocabulary.spans, text, special)]
        return await self._parts("spans", text, special)

    async def _aside(self, work: Callable[[str, bool], Made], text: str, special: bool) -> Made:
        try:
            return await asyncio.to_thread(work, text, special)
        except Unreadable as fault:
            raise Invalid(f"tokenizer error {fault}") from fault

    async def _parts(self, job: str, text: str, special: bool) -> list[bytes]:
        try:
            return await self._workers.parts(job, SECONDS, text=text, special=special)
        except Refused as fault:
            raise Invalid(f"tokenizer error {fault}") from fault
        except Exhausted as fault:
            raise Invalid("tokenizer error it takes too much time or memory") from fault
