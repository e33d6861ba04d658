"""How much text one token can cover, so that a text that cannot fit is refused without encoding it.

The bound is known for tokenizers that keep every byte of a text: byte-level ones, and those with a
token for each byte. Elsewhere one token may cover any amount of text. Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer as HfTokenizer

from router.text.token_bytes import BYTE_LEVEL_ALPHABET, TokenBytes

_NORMAL_FORM_FACTORS = {"NFC": 3, "NFD": 3, "NFKC": 4, "NFKD": 4}
"""By how much a Unicode normal form may shorten a text in UTF-8: 3 jamo of 3 bytes each compose to
a syllable of 3, and a letter of 4 bytes may become one of ASCII."""
_SPACE_MARK = "▁"
"""SentencePiece's character for a space."""


def max_token_bytes(tokenizer: HfTokenizer, token_bytes: TokenBytes) -> float:
    """Maximum number of UTF-8 bytes of a text that one token covers; infinite if unknown."""
    added = tokenizer.get_added_tokens_decoder().values()
    keeps_text = _keeps_text(_state(tokenizer.pre_tokenizer)) and not any(
        token.lstrip or token.rstrip for token in added
    )
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    if not keeps_text or not _has_every_byte(tokenizer, token_bytes, vocabulary):
        return math.inf
    sizes = map(len, vocabulary) if token_bytes.is_byte_level else map(_size, vocabulary)
    longest = max(*sizes, *(len(token.content.encode()) for token in added), 1)
    return longest * _shortening(_state(tokenizer.normalizer))


def _size(name: str) -> int:
    return len(name.replace(_SPACE_MARK, " ").encode())


def _state(part: Any) -> Mapping[str, Any] | None:
    """The description of a part of a tokenizer, as in `tokenizer.json`."""
    return None if part is None else json.loads(part.__getstate__())


def _has_every_byte(
    tokenizer: HfTokenizer, token_bytes: TokenBytes, vocabulary: Mapping[str, int]
) -> bool:
    """Whether every text can be encoded, without an unknown token that stands for parts of it."""
    if token_bytes.is_byte_level:
        return BYTE_LEVEL_ALPHABET.keys() <= vocabulary.keys()
    falls_back = getattr(tokenizer.model, "byte_fallback", False)
    return falls_back and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))


def _keeps_text(pre_tokenizer: Mapping[str, Any] | None) -> bool:
    """Whether no part of a text is dropped where it is split."""
    if pre_tokenizer is None:
        return True
    match pre_tokenizer["type"]:
        case "Sequence":
            return all(map(_keeps_text, pre_tokenizer["pretokenizers"]))
        case "Split" | "Punctuation":
            return bool(pre_tokenizer["behavior"] != "Removed")
        case kind:
            return kind in ("ByteLevel", "Digits", "Metaspace")


def _shortening(normalizer: Mapping[str, Any] | None) -> float:
    """The largest ratio of the length in bytes of a text and of its normalized form."""
    if normalizer is None:
        return 1
    match normalizer:
        case {"type": "Sequence", "normalizers": parts}:
            return math.prod(map(_shortening, parts))
        case {"type": "Prepend"}:
            return 1
        case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": str(content)}:
            return max(1, _size(pattern) / _size(content)) if content else math.inf
        case {"type": kind}:
            return _NORMAL_FORM_FACTORS.get(kind, math.inf)
    return math.inf
