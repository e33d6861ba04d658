"""Short and long texts get the same ids and offsets, in a thread or in a worker process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.errors import ValidationError
from router.text.encoder import LONG_TEXT_CHARACTERS, Encoder
from router.text.tokenizer import Tokenizer
from router.text.worker_pool import WorkerFiles, WorkerPool
from tests.support.families import byte_level

TEXT = "the 世 \n" * LONG_TEXT_CHARACTERS
"""Longer than LONG_TEXT_CHARACTERS in any encoding."""


@pytest.fixture
async def encoder(tmp_path: Path) -> AsyncIterator[Encoder]:
    """An encoder with the byte-level tokenizer."""
    byte_level().save(str(tmp_path / "tokenizer.json"))
    workers = WorkerPool(WorkerFiles(str(tmp_path), 300), count=1)
    yield Encoder(Tokenizer.load(str(tmp_path)), workers)
    await workers.close()


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("text", ["the 世", TEXT])
async def test_the_ids_are_those_of_the_tokenizer(
    encoder: Encoder, text: str, special: bool
) -> None:
    expected = byte_level().encode(text, add_special_tokens=special).ids
    assert list(await encoder.encode(text, special)) == expected


@pytest.mark.parametrize("text", ["the 世", TEXT])
async def test_the_offsets_cover_the_bytes_of_the_text(encoder: Encoder, text: str) -> None:
    tokens = json.loads(b"".join(await encoder.tokens_with_offsets(text, add_special_tokens=False)))
    assert [token["id"] for token in tokens] == list(
        await encoder.encode(text, add_special_tokens=False)
    )
    content = text.encode()
    assert (tokens[0]["start"], tokens[-1]["stop"]) == (0, len(content))
    assert all(
        content[token["start"] : token["stop"]].decode() == token["text"] for token in tokens
    )


async def test_a_text_that_cannot_be_encoded_is_a_validation_error(encoder: Encoder) -> None:
    with pytest.raises(ValidationError, match="tokenizer error"):
        await encoder.encode("\ud800")


async def test_a_killed_worker_fails_only_the_text_that_it_was_encoding(encoder: Encoder) -> None:
    await encoder.encode(TEXT)
    [worker] = encoder._workers._idle
    worker.kill()
    await worker.wait()
    with pytest.raises(ValidationError, match="too much time or memory"):
        await encoder.encode(TEXT)
    assert len(await encoder.encode(TEXT)) > LONG_TEXT_CHARACTERS
