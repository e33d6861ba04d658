"""Where the tokens of a prompt begin in its text.

The tokens of a text may differ from it: special ones are added, white space is stripped, characters
are normalized. Offsets follow the text as far as it agrees; they are always inside it and never
decrease. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_SPACE = re.compile(rb"[ \t\r\n]*")


def text_offsets(text: str, tokens: Iterable[tuple[bytes, bool]]) -> list[int]:
    """The offset in characters of each of `tokens` in `text`.

    A token is its bytes, and whether it is special: such a token may be missing in the text. A
    token that begins inside a character has the offset of that character.
    """
    data, offsets = text.encode(), list[int]()
    position = characters = 0
    for token, is_special in tokens:
        is_inside_character = position < len(data) and _continues_character(data[position])
        offsets.append(characters - is_inside_character)
        end = _find_end(data, position, token, is_special)
        characters += sum(not _continues_character(byte) for byte in data[position:end])
        position = end
    return offsets


def _find_end(data: bytes, start: int, token: bytes, is_special: bool) -> int:
    """The end of `token` in `data`, where it begins at `start` or after white space there."""
    for position, form in _places(data, start, token):
        if data.startswith(form, position):
            return position + len(form)
    return start if is_special else min(start + len(token), len(data))


def _places(data: bytes, start: int, token: bytes) -> Iterator[tuple[int, bytes]]:
    """Where the token may begin, and how it may be written there."""
    without_space = token.lstrip(b" ")
    yield start, token
    yield start, without_space
    if space := _SPACE.match(data, start):
        yield space.end(), without_space


def _continues_character(byte: int) -> bool:
    """Whether a byte of UTF-8 continues a character (RFC 3629)."""
    return byte & 0xC0 == 0x80
