"""Whether a draft model can write the target's text: what their vocabularies have in common.

Two tokens are equal if their pieces in both `tokenizer.json` files are. A draft is judged by the
share of the target's text that it can write, not by the share of its own vocabulary. Only the
standard library is imported: the launcher runs this before it starts any process.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shard.errors import StartupError
from shard.loading.model_files import read_config, read_object, text_part

MIN_SHARE = 0.6
"""Minimum share of the target's text that the draft must have tokens for."""
LOW_SHARE = 0.9
"""A draft below this share is reported, since most drafts of its own family have all tokens."""
_RANK_OFFSET = 10
"""Zipf-Mandelbrot's shift of ranks: the most frequent tokens are less frequent than 1/rank."""
_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>|.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SharedVocabulary:
    """What two vocabularies have in common."""

    draft_ids: Mapping[int, int] | None
    """Draft id by target id of the tokens that both have; None if the ids are the same."""
    share: float
    """Estimated share of the target's text, in tokens, that the draft has tokens for."""

    @property
    def warning(self) -> str | None:
        """One line about a draft that can write much less than the target."""
        if self.share >= LOW_SHARE:
            return None
        return (
            f"the draft's vocabulary covers {self.share:.0%} of the target's use of its own; after"
            " any other token nothing is drafted, so that a draft of the target's family is faster"
        )


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a model by piece."""

    ids: Mapping[str, int]
    added: frozenset[str]
    """The pieces that are no result of training, such as special tokens."""


def shared_vocabulary(target: Path, draft: Path) -> SharedVocabulary:
    """What the vocabularies in two model folders have in common.

    `vocab_size` may differ, since models pad it; it is compared only if a folder has no
    `tokenizer.json`. Raises StartupError(4) if the draft has too few of the target's tokens.
    """
    first, second = read_vocabulary(target), read_vocabulary(draft)
    if first is None or second is None:
        _compare_sizes(target, draft)
        return SharedVocabulary(None, 1.0)
    if first.ids == second.ids:
        return SharedVocabulary(None, 1.0)
    share = covered_share(first, second.ids.keys())
    if share < MIN_SHARE:
        raise StartupError(4, _refusal(first.ids, second.ids, share))
    shared = first.ids.keys() & second.ids.keys()
    return SharedVocabulary({first.ids[piece]: second.ids[piece] for piece in shared}, share)


def covered_share(target: Vocabulary, pieces: Collection[str]) -> float:
    """Estimated share of the tokens in the target's texts that are in `pieces`.

    A trained vocabulary is in the order of frequency: BPE numbers its merges as it finds them, and
    Unigram sorts its pieces by probability. A token of rank r then occurs about 1 / (r + offset)
    times (Zipf-Mandelbrot). Bytes, characters and added tokens do not count, since nearly all
    vocabularies have them; if there are no others, all tokens count alike.
    """
    trained = sorted(target.ids.keys() - target.added, key=target.ids.__getitem__)
    merged = [piece for piece in trained if not _BYTE_PIECE.fullmatch(piece)]
    if not merged:
        return sum(piece in pieces for piece in trained) / max(1, len(trained))
    weights = [1 / (rank + _RANK_OFFSET) for rank in range(1, len(merged) + 1)]
    covered = (w for piece, w in zip(merged, weights, strict=True) if piece in pieces)
    return sum(covered) / sum(weights)


def read_vocabulary(folder: Path) -> Vocabulary | None:
    """The vocabulary in `tokenizer.json`, including added tokens; None without the file.

    Raises StartupError(4) for a file that is not a tokenizer.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    tokenizer = read_object(path)
    try:
        pieces: Any = tokenizer["model"]["vocab"]
        if isinstance(pieces, list):  # Unigram: the id is the index in the list
            pieces = {piece: id for id, (piece, _) in enumerate(pieces)}
        added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens") or ()}
        ids = {str(piece): int(id) for piece, id in {**pieces, **added}.items()}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise StartupError(
            4, f"{path} is damaged: it has no usable vocabulary ({type(error).__name__}: {error})"
        ) from None
    return Vocabulary(ids, frozenset(map(str, added)))


def _compare_sizes(target: Path, draft: Path) -> None:
    sizes = [text_part(read_config(folder)).get("vocab_size") for folder in (target, draft)]
    if sizes[0] != sizes[1]:
        raise StartupError(
            4, f"the draft's vocabulary ({sizes[1]}) is not the target's ({sizes[0]})"
        )


def _refusal(target: Mapping[str, int], draft: Mapping[str, int], share: float) -> str:
    piece, _ = min(target.items() ^ draft.items(), key=lambda item: (item[1], item[0]))
    return (
        f"the draft's vocabulary ({len(draft)} tokens) shares {len(target.keys() & draft.keys())}"
        f" with the target's ({len(target)}), which cover {share:.0%} of the target's text:"
        f" {piece!r} is {_describe_id(draft, piece)} in the draft, {_describe_id(target, piece)} in"
        " the target; choose a draft of the same family"
    )


def _describe_id(pieces: Mapping[str, int], piece: str) -> str:
    return str(pieces[piece]) if piece in pieces else "absent"
