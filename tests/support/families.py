"""Tiny tokenizers of the two common families, built in memory without training data."""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

BOS, EOS = "<s>", "</s>"


def byte_level() -> Tokenizer:
    """GPT-2's family: one token per byte, and merges that join characters or parts of them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [
        _byte_level_characters(pair)
        for pair in (b"th", b"\x80\xf0", b"\x9f\x98", b" a", b"\xe4\xb8")
    ]
    merges = [(pair[:-1], pair[-1]) for pair in pairs]
    words = [*alphabet, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE({word: id for id, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _with_specials(tokenizer)


def sentencepiece_like() -> Tokenizer:
    """Llama 2's family: a mark for spaces, byte tokens for unknown characters."""
    letters = "▁abcdefghijklmnopqrstuvwxyz."
    words = [*(f"<0x{byte:02X}>" for byte in range(256)), *letters, "▁a", "th", "the", "▁the"]
    merges = [("▁", "a"), ("t", "h"), ("th", "e"), ("▁", "the")]
    vocabulary = {word: id for id, word in enumerate(["<unk>", *words])}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _with_specials(tokenizer)


def _with_specials(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(BOS, special=True), AddedToken(EOS, special=True)])
    return tokenizer


def _byte_level_characters(text: bytes) -> str:
    """`text` in the byte-level alphabet."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {byte: chr(byte) for byte in printable}
    table |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return "".join(table[byte] for byte in text)


FAMILIES: Mapping[str, Tokenizer] = {
    "byte_level": byte_level(),
    "sentencepiece_like": sentencepiece_like(),
}
