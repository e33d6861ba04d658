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


class Unreadable(ValueError):
    """The tokenizer cannot take a text."""


class Vocabulary:
    """A tokenizer and its special tokens; safe to share, since nothing in it changes."""

    def __init__(self, tokenizer: HfTokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special = {id: token.content for id, token in added.items() if token.special}

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
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str, special: bool = True) -> array[int]:
        """Token ids of `text`, int32, the tokenizer's own included if `special`.

        Raises Unreadable.
        """
        return array("i", self._encoding(text, special, places=False).ids)

    def spans(self, text: str, special: bool = True) -> bytes:
        """JSON: each token with its place in the UTF-8 bytes of `text`. Raises Unreadable."""
        encoding = self._encoding(text, special, places=True)
        offsets = _offsets(text, encoding.offsets)
        return orjson.dumps(
            [
                {"id": id, "text": text[a:b], "start": offsets[a], "stop": offsets[b]}
                for id, (a, b) in zip(encoding.ids, encoding.offsets, strict=True)
            ]
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included by name."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text

    def decode_long(self, ids: Sequence[int]) -> str:
        """The same without the interpreter's lock, for a thread."""
        [text] = self._tokenizer.decode_batch([ids], skip_special_tokens=False)
        return str(text)

    def special(self, id: int) -> str | None:
        """The name of a special token; None for any other id."""
        return self._special.get(id)

    def _encoding(self, text: str, special: bool, places: bool) -> Encoding:
        """With `places` also where each token stands.

        As a batch of one: `encode` would hold the interpreter's lock, and with it every stream.
        """
        batch = self._tokenizer.encode_batch if places else self._tokenizer.encode_batch_fast
        try:
            return batch([text], add_special_tokens=special)[0]
        except Exception as fault:  # tokenizers raises nothing narrower
            raise Unreadable(str(fault)) from fault


def _offsets(text: str, places: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Of each place among the characters of `text`, the one among its bytes."""
    offsets, last, size = {}, 0, 0
    for place in sorted({place for pair in places for place in pair}):
        size += len(text[last:place].encode())
        offsets[place], last = size, place
    return offsets
