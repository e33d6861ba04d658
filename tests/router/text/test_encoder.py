"""Short texts and long ones become the same ids and spans, wherever that is done."""

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
"""Long in any case."""


@pytest.fixture
async def encoder(tmp_path: Path) -> AsyncIterator[Encoder]:
    """Over a folder whose tokenizer is the byte-level one."""
    byte_level().save(str(tmp_path / "tokenizer.json"))
    workers = WorkerPool(WorkerFiles(str(tmp_path), 300), count=1)
    yield Encoder(Tokenizer.load(str(tmp_path)), workers)
    await workers.close()


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("text", ["the 世", TEXT])
async def test_ids_are_the_tokenizers(encoder: Encoder, text: str, special: bool) -> None:
    expected = byte_level().encode(text, add_special_tokens=special).ids
    assert list(await encoder.encode(text, special)) == expected


@pytest.mark.parametrize("text", ["the 世", TEXT])
async def test_spans_cover_the_bytes_of_the_text(encoder: Encoder, text: str) -> None:
    spans = json.loads(b"".join(await encoder.tokens_with_offsets(text, add_special_tokens=False)))
    assert [span["id"] for span in spans] == list(
        await encoder.encode(text, add_special_tokens=False)
    )
    assert (spans[0]["start"], spans[-1]["stop"]) == (0, len(text.encode()))
    assert all(
        text.encode()[span["start"] : span["stop"]].decode() == span["text"] for span in spans
    )


async def test_a_text_that_cannot_be_encoded_is_invalid(encoder: Encoder) -> None:
    with pytest.raises(ValidationError, match="tokenizer error"):
        await encoder.encode("\ud800")


async def test_a_lost_worker_costs_its_own_text_alone(encoder: Encoder) -> None:
    await encoder.encode(TEXT)
    [worker] = encoder._workers._idle
    worker.kill()
    await worker.wait()
    with pytest.raises(ValidationError, match="too much time or memory"):
        await encoder.encode(TEXT)
    assert len(await encoder.encode(TEXT)) > LONG_TEXT_CHARACTERS
