"""Between text and token ids: the tokenizer, and the text of a stream whose ids come one by one.

No U+FFFD is shown for a character whose bytes are not all there: such a token has the text "",
and at the very end it is dropped. Special tokens show their name and stay out of the whole text,
so that the whole is the joined pieces less exactly those, unless `stops` has it otherwise.
`tokenizers`' own DecodeStream is not used: it raises once a run of byte tokens turns invalid, as
sampled ones may, and withholds without end.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import orjson
from tokenizers import Encoding
from tokenizers import Tokenizer as HfTokenizer


class TokenizationError(ValueError):
    """The tokenizer cannot take a text."""


class Tokenizer:
    """A tokenizer and its special tokens; safe to share, since nothing in it changes."""

    def __init__(self, tokenizer: HfTokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._backend = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special_names = {id: token.content for id, token in added.items() if token.special}

    @classmethod
    def load(cls, folder: str) -> Self:
        """The vocabulary of `tokenizer.json` in `folder`. Raises OSError or ValueError."""
        text = Path(folder, "tokenizer.json").read_text(encoding="utf-8")
        try:
            return cls(HfTokenizer.from_str(text))
        except Exception as fault:  # tokenizers raises nothing narrower
            raise ValueError(f"tokenizer.json is not usable: {fault}") from fault

    @property
    def size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, add_special_tokens: bool = True) -> array[int]:
        """Token ids of `text`, int32, the tokenizer's own included if `special`.

        Raises Unreadable.
        """
        return array("i", self._encode(text, add_special_tokens, with_offsets=False).ids)

    def tokens_with_offsets(self, text: str, add_special_tokens: bool = True) -> bytes:
        """JSON: each token with its place in the UTF-8 bytes of `text`. Raises Unreadable."""
        encoding = self._encode(text, add_special_tokens, with_offsets=True)
        offsets = _byte_offsets(text, encoding.offsets)
        return orjson.dumps(
            [
                {"id": id, "text": text[a:b], "start": offsets[a], "stop": offsets[b]}
                for id, (a, b) in zip(encoding.ids, encoding.offsets, strict=True)
            ]
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included by name."""
        text: str = self._backend.decode(ids, skip_special_tokens=False)
        return text

    def decode_without_gil(self, ids: Sequence[int]) -> str:
        """The same without the interpreter's lock, for a thread."""
        [text] = self._backend.decode_batch([ids], skip_special_tokens=False)
        return str(text)

    def special_name(self, id: int) -> str | None:
        """The name of a special token; None for any other id."""
        return self._special_names.get(id)

    def _encode(self, text: str, add_special_tokens: bool, with_offsets: bool) -> Encoding:
        """With `places` also where each token stands.

        As a batch of one: `encode` would hold the interpreter's lock, and with it every stream.
        """
        batch = self._backend.encode_batch if with_offsets else self._backend.encode_batch_fast
        try:
            return batch([text], add_special_tokens=add_special_tokens)[0]
        except Exception as fault:  # tokenizers raises nothing narrower
            raise TokenizationError(str(fault)) from fault


def _byte_offsets(text: str, character_spans: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Of each place among the characters of `text`, the one among its bytes."""
    offsets, last, size = {}, 0, 0
    for place in sorted({place for pair in character_spans for place in pair}):
        size += len(text[last:place].encode())
        offsets[place], last = size, place
    return offsets
