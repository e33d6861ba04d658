"""A GGUF header is read without its tensors, and a damaged file is refused with one line."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard.errors import StartupError
from shard.gguf.header import BLOCKS, GgufTensor, read_gguf_header
from tests.support.gguf_files import header

METADATA = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.tokens": ["a", "é", ""],
    "tokenizer.ggml.token_type": [1, 3, 1],
    "general.name": "tiny",
}
TENSORS = [("token_embd.weight", (32, 3), 8, 0), ("norm.weight", (32,), 0, 128)]
"""96 values of Q8_0 in 102 bytes, and 32 of F32 in 128 bytes at the next multiple of 32."""
COMPLETE = header(METADATA, TENSORS) + bytes(256)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def refusal(file: Path, content: bytes) -> str:
    file.write_bytes(content)
    with pytest.raises(StartupError) as caught:
        read_gguf_header(file)
    assert caught.value.code == 4
    assert "\n" not in caught.value.text
    assert str(file) in caught.value.text
    return caught.value.text


def test_a_header_has_the_scalars_and_the_extents_of_the_tensors(file: Path) -> None:
    file.write_bytes(COMPLETE)
    read = read_gguf_header(file)
    arrays = {"tokenizer.ggml.tokens", "tokenizer.ggml.token_type"}
    assert read.metadata == {key: METADATA[key] for key in METADATA if key not in arrays}
    assert read.architecture == "llama"
    assert read.tensors == (
        GgufTensor("token_embd.weight", (32, 3), 8, 0),
        GgufTensor("norm.weight", (32,), 0, 128),
    )
    assert [tensor.end for tensor in read.tensors] == [102, 256]
    assert read.elements == 128
    assert read.size == len(COMPLETE)


def test_the_block_sizes_are_those_of_ggml() -> None:
    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: sizes[kind] for kind in BLOCKS} == BLOCKS


def test_padding_at_the_end_is_allowed(file: Path) -> None:
    file.write_bytes(COMPLETE + bytes(31))
    assert read_gguf_header(file).size == len(COMPLETE)


def test_a_file_without_its_last_byte_is_refused_with_both_sizes(file: Path) -> None:
    size = len(COMPLETE)
    text = refusal(file, COMPLETE[:-1])
    assert f"has {size - 1} bytes, its header implies {size}; download it again" in text


@given(size=st.integers(0, len(header(METADATA, TENSORS)) - 32))
def test_a_file_that_ends_within_its_header_is_refused(
    tmp_path_factory: pytest.TempPathFactory, size: int
) -> None:
    file = tmp_path_factory.mktemp("cut") / "model.gguf"
    refusal(file, COMPLETE[:size])


@settings(max_examples=200)
@given(position=st.integers(4, len(header(METADATA, TENSORS)) - 1), byte=st.integers(0, 255))
def test_any_changed_byte_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    file = tmp_path_factory.mktemp("changed") / "model.gguf"
    content = bytearray(COMPLETE)
    content[position] = byte
    file.write_bytes(content)
    with suppress(StartupError):
        read_gguf_header(file)


@pytest.mark.parametrize(
    ("version", "shown"), [(1, "1"), (4, "4"), (3 << 24, str(3 << 24)), (0, "0")]
)
def test_another_version_or_byte_order_is_named(file: Path, version: int, shown: str) -> None:
    content = COMPLETE[:4] + version.to_bytes(4, "little") + COMPLETE[8:]
    assert f"is of GGUF version {shown}; supported: 2 and 3" in refusal(file, content)


def test_an_unknown_type_of_tensor_is_named(file: Path) -> None:
    content = header(METADATA, [("odd.weight", (32,), 77, 0)])
    assert "the tensor odd.weight has the unknown type 77" in refusal(file, content)


@pytest.mark.parametrize(
    "tensors",
    [
        [("deep.weight", (1, 1, 1, 1, 1), 0, 0)],
        [("far.weight", (32,), 0, 1 << 40)],
        [("huge.weight", (1 << 40, 1 << 20), 0, 0)],
    ],
)
def test_tensors_beyond_the_file_are_refused(
    file: Path, tensors: list[tuple[str, tuple[int, ...], int, int]]
) -> None:
    assert "download it again" in refusal(file, header(METADATA, tensors) + bytes(128))
