"""The bytes of single tokens: what each adds to the UTF-8 of a text that it is not the first of.

The text of a token alone does not tell them: a part of a character is decoded to U+FFFD, and some
decoders strip the space before a first word. Nothing here knows of requests or of other APIs.
"""

from __future__ import annotations

import re

from tokenizers import Tokenizer as HfTokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""A byte token of SentencePiece."""


def _byte_level_alphabet() -> dict[str, int]:
    """The byte of each character of GPT-2's alphabet: printable ones stand for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(256 + index): byte for index, byte in enumerate(others)}
    return {**{chr(byte): byte for byte in printable}, **shifted}


BYTE_LEVEL_ALPHABET = _byte_level_alphabet()


class TokenBytes:
    """The bytes of the tokens of one tokenizer, whose decoder decides how they are written."""

    def __init__(self, tokenizer: HfTokenizer) -> None:
        self._tokenizer = tokenizer
        self.is_byte_level = self._decodes("a\u0120a", "a a")
        """Whether tokens are written in GPT-2's alphabet of bytes."""
        self.has_byte_tokens = self._decodes("<0x41>", "A")
        """Whether tokens such as `<0x41>` stand for bytes."""

    def of(self, id: int) -> bytes:
        """The bytes of the token `id`; none for an id without a token."""
        name = self._tokenizer.id_to_token(id)
        if name is None:
            return b""
        if self.is_byte_level:
            return _from_byte_level(name)
        if self.has_byte_tokens and (byte := _BYTE_TOKEN.fullmatch(name)):
            return bytes.fromhex(byte[1])
        return self._text_after_itself(id).encode()

    def _text_after_itself(self, id: int) -> str:
        """The token's text in the middle of a text."""
        once = self._tokenizer.decode([id], skip_special_tokens=False)
        twice: str = self._tokenizer.decode([id, id], skip_special_tokens=False)
        return twice[len(once) :]

    def _decodes(self, token: str, text: str) -> bool:
        decoder = self._tokenizer.decoder
        return decoder is not None and decoder.decode([token]) == text


def _from_byte_level(name: str) -> bytes:
    """A token with any other character, such as an added one, stands for its own text."""
    if all(character in BYTE_LEVEL_ALPHABET for character in name):
        return bytes(BYTE_LEVEL_ALPHABET[character] for character in name)
    return name.encode()
