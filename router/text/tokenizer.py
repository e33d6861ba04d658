"""The model's tokenizer: text to token ids and back.

Text that is decoded token by token is `detokenizer`'s. The DecodeStream of `tokenizers` is not used
for it: it raises once a run of byte tokens is invalid, as sampled ones may be, and holds text back
without a limit.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Self

import orjson
from tokenizers import Encoding
from tokenizers import Tokenizer as HfTokenizer

from router.text.text_bound import max_token_bytes
from router.text.token_bytes import TokenBytes


class TokenizationError(ValueError):
    """The tokenizer cannot encode a text."""


class Tokenizer:
    """A tokenizer and its special tokens. Immutable, so safe to share between threads."""

    def __init__(self, tokenizer: HfTokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._backend = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special_names = {id: token.content for id, token in added.items() if token.special}
        self._token_bytes = TokenBytes(tokenizer)

    @classmethod
    def load(cls, folder: str) -> Self:
        """Load `tokenizer.json` from `folder`. Raises OSError or ValueError."""
        text = Path(folder, "tokenizer.json").read_text(encoding="utf-8")
        try:
            return cls(HfTokenizer.from_str(text))
        except Exception as error:  # tokenizers raises nothing narrower
            raise ValueError(f"tokenizer.json is not usable: {error}") from error

    @property
    def size(self) -> int:
        """Number of tokens, including added ones."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, add_special_tokens: bool = True) -> array[int]:
        """The token ids of `text`, int32. Raises TokenizationError.

        With `add_special_tokens`, those that the tokenizer adds, such as BOS, are included.
        """
        return array("i", self._encode(text, add_special_tokens, with_offsets=False).ids)

    @cached_property
    def max_token_bytes(self) -> float:
        """Maximum number of UTF-8 bytes of a text that one token covers; infinite if unknown."""
        return max_token_bytes(self._backend, self._token_bytes)

    def min_token_count(self, text: str) -> int:
        """A number of tokens that `text` has at least, found without encoding it."""
        return int(len(text.encode(errors="replace")) // self.max_token_bytes)

    def tokens_with_offsets(self, text: str, add_special_tokens: bool = True) -> bytes:
        """JSON array of the tokens with their offsets in the UTF-8 bytes of `text`.

        Raises TokenizationError.
        """
        encoding = self._encode(text, add_special_tokens, with_offsets=True)
        offsets = _byte_offsets(text, encoding.offsets)
        return orjson.dumps(
            [
                {"id": id, "text": text[a:b], "start": offsets[a], "stop": offsets[b]}
                for id, (a, b) in zip(encoding.ids, encoding.offsets, strict=True)
            ]
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, including the names of special tokens."""
        text: str = self._backend.decode(ids, skip_special_tokens=False)
        return text

    def decode_without_gil(self, ids: Sequence[int]) -> str:
        """Same as `decode`, but releases the GIL; for use in a thread."""
        [text] = self._backend.decode_batch([ids], skip_special_tokens=False)
        return str(text)

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token adds to the UTF-8 of a text; special tokens by name.

        They may be a part of a character. Empty for an id without a token.
        """
        name = self.special_name(id)
        return self._token_bytes.of(id) if name is None else name.encode()

    def special_name(self, id: int) -> str | None:
        """The name of a special token; None if `id` is not one."""
        return self._special_names.get(id)

    def names_from(self, first_id: int) -> list[str]:
        """Names of the tokens whose ids are at least `first_id`, in the order of their ids."""
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        unknown = [(id, name) for name, id in vocabulary.items() if id >= first_id]
        return [name for _, name in sorted(unknown)]

    def _encode(self, text: str, add_special_tokens: bool, with_offsets: bool) -> Encoding:
        """Encode as a batch of one, since `encode` of `tokenizers` would hold the GIL."""
        batch = self._backend.encode_batch if with_offsets else self._backend.encode_batch_fast
        try:
            return batch([text], add_special_tokens=add_special_tokens)[0]
        except Exception as error:  # tokenizers raises nothing narrower
            raise TokenizationError(str(error)) from error


def _byte_offsets(text: str, character_spans: Sequence[tuple[int, int]]) -> dict[int, int]:
    """The byte offset of each character offset that occurs in `character_spans`."""
    offsets, last, size = {}, 0, 0
    for offset in sorted({offset for span in character_spans for offset in span}):
        size += len(text[last:offset].encode())
        offsets[offset], last = size, offset
    return offsets
