"""The bytes of single tokens: joined, they are the UTF-8 of the text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer

from router.text.detokenizer import Detokenizer
from router.text.tokenizer import Tokenizer
from tests.support.families import EOS, FAMILIES, sentencepiece_like
from tests.support.paths import ROOT


def gemma_like() -> HfTokenizer:
    """Byte tokens, and no space that is stripped at the start."""
    tokenizer = sentencepiece_like()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(parts)
    return tokenizer


def metaspace() -> HfTokenizer:
    """T5's family, with a byte token for every other character."""
    letters = [*(f"<0x{byte:02X}>" for byte in range(256)), "▁", "t", "h", "e", "a", "▁the"]
    scores = [("<unk>", 0.0), *((word, -float(len(word) == 1)) for word in letters)]
    tokenizer = HfTokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return tokenizer


DEMO = Tokenizer.load(str(ROOT / "shard" / "demo" / "target"))
BYTE_LEVEL = {"demo": DEMO, "byte_level": Tokenizer(FAMILIES["byte_level"])}
SPACE_MARKS = {
    "llama": Tokenizer(sentencepiece_like()),
    "gemma": Tokenizer(gemma_like()),
    "metaspace": Tokenizer(metaspace()),
}
ALL = {**BYTE_LEVEL, **SPACE_MARKS}
texts = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd▁"),
        st.sampled_from("the a.😀👩‍👩‍👧世界é\u0301\n "),
    ),
    max_size=40,
)


def joined(tokenizer: Tokenizer, ids: list[int]) -> bytes:
    return b"".join(map(tokenizer.token_bytes, ids))


@pytest.mark.parametrize("name", BYTE_LEVEL)
@given(text=texts)
@settings(max_examples=300, deadline=None)
def test_the_bytes_of_the_tokens_are_those_of_the_text(name: str, text: str) -> None:
    tokenizer = BYTE_LEVEL[name]
    assert joined(tokenizer, list(tokenizer.encode(text))) == text.encode()


@pytest.mark.parametrize("name", SPACE_MARKS)
@given(text=texts)
@settings(max_examples=200, deadline=None)
def test_a_first_word_keeps_the_space_that_its_token_has(name: str, text: str) -> None:
    """These tokenizers may put a space before a text, which they strip when they decode it."""
    tokenizer = SPACE_MARKS[name]
    whole = joined(tokenizer, list(tokenizer.encode(text)))
    assert whole in (text.encode(), b" " + text.encode())


@pytest.mark.parametrize("name", ALL)
@given(prompt=texts, text=texts)
@settings(max_examples=200, deadline=None)
def test_the_bytes_of_an_output_are_those_of_its_streamed_text(
    name: str, prompt: str, text: str
) -> None:
    tokenizer = ALL[name]
    ids = list(tokenizer.encode(text))
    stream = Detokenizer(tokenizer, tokenizer.encode("a" + prompt))
    assert "".join(stream.push(id).text for id in ids).encode() == joined(tokenizer, ids)


@pytest.mark.parametrize("name", BYTE_LEVEL)
@given(ids=st.lists(st.integers(5, 255), max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_sampled_ids_have_the_bytes_that_the_decoder_replaces(
    name: str, ids: list[int]
) -> None:
    tokenizer = BYTE_LEVEL[name]
    assert joined(tokenizer, ids).decode(errors="replace") == tokenizer.decode(ids)


def id_of(family: str, token: str) -> int:
    id = FAMILIES[family].token_to_id(token)
    assert id is not None
    return id


@pytest.mark.parametrize(
    ("family", "token", "expected"),
    [
        ("byte_level", "\u00e4\u00b8", b"\xe4\xb8"),
        ("byte_level", "Ģ", b"\x80"),
        ("byte_level", "Ġa", b" a"),
        ("byte_level", "Ċ", b"\n"),
        ("byte_level", "th", b"th"),
        ("byte_level", EOS, EOS.encode()),
        ("sentencepiece_like", "<0xE2>", b"\xe2"),
        ("sentencepiece_like", "<0x0A>", b"\n"),
        ("sentencepiece_like", "▁the", b" the"),
        ("sentencepiece_like", "▁", b" "),
        ("sentencepiece_like", "the", b"the"),
        ("sentencepiece_like", EOS, EOS.encode()),
    ],
)
def test_a_token_has_its_own_bytes(family: str, token: str, expected: bytes) -> None:
    assert Tokenizer(FAMILIES[family]).token_bytes(id_of(family, token)) == expected


def test_an_added_token_outside_of_the_alphabet_of_bytes_has_the_bytes_of_its_text() -> None:
    backend = HfTokenizer.from_str(FAMILIES["byte_level"].to_str())
    backend.add_tokens([AddedToken("ä b", special=False)])
    id = backend.token_to_id("ä b")
    assert id is not None
    assert Tokenizer(backend).token_bytes(id) == "ä b".encode()


def test_an_id_without_a_token_has_no_bytes() -> None:
    assert DEMO.token_bytes(1 << 20) == b""


def test_a_tokenizer_without_a_decoder_joins_words_with_spaces() -> None:
    words = HfTokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    assert Tokenizer(words).token_bytes(1) == b" b"
