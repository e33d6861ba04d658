"""The header of a GGUF file: its metadata, and the types and extents of its tensors.

Reads no tensor data and imports only the standard library, so that the launcher refuses a damaged
file within a second. Source: the GGUF specification of ggml, versions 2 and 3.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from shard.errors import StartupError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32
Value = int | float | bool | str

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?"}
_SCALARS |= {10: "<Q", 11: "<q", 12: "<d"}
"""`struct` formats of the metadata types of a fixed size."""
_STRING, _ARRAY = 8, 9
BLOCKS = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    9: (32, 40),  # Q8_1
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    29: (256, 56),  # IQ1_M
    30: (1, 2),  # BF16
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
}
"""Elements and bytes of one block, by tensor type."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One entry of the tensor table."""

    name: str
    shape: tuple[int, ...]
    """Innermost dimension first, as ggml stores it."""
    type: int
    offset: int
    """Bytes from the start of the data section."""

    @property
    def elements(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def end(self) -> int:
        """Offset of the first byte after the tensor's data."""
        block_elements, block_bytes = BLOCKS[self.type]
        return self.offset + self.elements // block_elements * block_bytes


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a file says about itself."""

    metadata: Mapping[str, Value]
    """Without arrays: vocabularies are read by the conversion only."""
    tensors: tuple[GgufTensor, ...]
    data_start: int

    @property
    def architecture(self) -> str:
        """The name of the architecture in ggml; empty if the file does not say it."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def elements(self) -> int:
        """Number of values in all tensors."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def size(self) -> int:
        """Size of a complete file in bytes, without padding at its end."""
        return self.data_start + max((tensor.end for tensor in self.tensors), default=0)


def is_gguf(file: Path) -> bool:
    """Whether `file` starts with GGUF's magic bytes."""
    with file.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def read_gguf_header(file: Path) -> GgufHeader:
    """Read the header of `file`, and compare its size with what the header implies.

    Raises StartupError(4) if the file is damaged or incomplete, or has an unknown version or type.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as stream, _mapped(stream.fileno()) as content:
            header = _parse(file, _Reader(content))
    except (struct.error, ValueError):
        raise StartupError(
            4, f"{file} is damaged or incomplete: its header cannot be read; download it again"
        ) from None
    if size < header.size:
        raise StartupError(
            4, f"{file} has {size} bytes, its header implies {header.size}; download it again"
        )
    return header


class _Damaged(ValueError):
    """A value that no GGUF file has."""


class _Reader:
    """Reads values one after the other. Raises struct.error at the end of the file."""

    def __init__(self, content: mmap.mmap) -> None:
        self._content = content
        self.position = 0

    def number(self, format: str) -> int | float | bool:
        """The next value of the `struct` format."""
        (value,) = struct.unpack_from(format, self._content, self.position)
        self.position += struct.calcsize(format)
        return value  # type: ignore[no-any-return]

    def count(self, format: str = "<Q") -> int:
        """The next unsigned integer."""
        return int(self.number(format))

    def text(self) -> str:
        """The next string."""
        length = self.count()
        start = self.position
        self.skip(length)
        return self._content[start : self.position].decode()

    def skip(self, size: int) -> None:
        """Advance by `size` bytes. Raises struct.error beyond the end."""
        if size > len(self._content) - self.position:
            raise struct.error
        self.position += size


def _mapped(descriptor: int) -> mmap.mmap:
    """The content of a file. Raises ValueError if it is empty."""
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)


def _parse(file: Path, reader: _Reader) -> GgufHeader:
    reader.skip(len(MAGIC))
    version = reader.count("<I")
    if version not in VERSIONS:
        raise StartupError(
            4, f"{file} is of GGUF version {version}; supported: 2 and 3, little-endian"
        )
    tensor_count, entries = reader.count(), reader.count()
    metadata: dict[str, Value] = {}
    for _ in range(entries):
        name, kind = reader.text(), reader.count("<I")
        if kind == _ARRAY:
            _skip_array(reader)
        else:
            metadata[name] = _value(reader, kind)
    tensors = tuple(_tensor(file, reader) for _ in range(tensor_count))
    alignment = int(metadata.get("general.alignment", DEFAULT_ALIGNMENT))
    if alignment <= 0:
        raise _Damaged
    return GgufHeader(metadata, tensors, -(-reader.position // alignment) * alignment)


def _value(reader: _Reader, kind: int) -> Value:
    if kind == _STRING:
        return reader.text()
    if kind not in _SCALARS:
        raise _Damaged
    return reader.number(_SCALARS[kind])


def _skip_array(reader: _Reader) -> None:
    kind, length = reader.count("<I"), reader.count()
    if kind in _SCALARS:
        return reader.skip(length * struct.calcsize(_SCALARS[kind]))
    if kind != _STRING:
        raise _Damaged
    for _ in range(length):
        reader.skip(reader.count())
    return None


def _tensor(file: Path, reader: _Reader) -> GgufTensor:
    name, dimensions = reader.text(), reader.count("<I")
    if dimensions > MAX_DIMENSIONS:
        raise _Damaged
    shape = tuple(reader.count() for _ in range(dimensions))
    kind, offset = reader.count("<I"), reader.count()
    if kind not in BLOCKS:
        raise StartupError(
            4, f"{file}: the tensor {name} has the unknown type {kind}; convert the file to another"
        )
    return GgufTensor(name, shape, kind, offset)
