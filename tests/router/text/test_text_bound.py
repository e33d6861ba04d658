"""A number of tokens that a text has at least, for every kind of tokenizer."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HfTokenizer

from router.text.text_bound import _NORMAL_FORM_FACTORS
from router.text.tokenizer import Tokenizer
from tests.support.families import byte_level, sentencepiece_like
from tests.support.paths import ROOT


def normalized(form: normalizers.Normalizer) -> Callable[[], HfTokenizer]:
    def build() -> HfTokenizer:
        tokenizer = byte_level()
        tokenizer.normalizer = form
        return tokenizer

    return build


def split(pattern: str, behavior: str) -> HfTokenizer:
    tokenizer = byte_level()
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    first = pre_tokenizers.Split(Regex(pattern), behavior)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([first, last])
    return tokenizer


def stripping(side: Literal["lstrip", "rstrip"]) -> HfTokenizer:
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("<pad>", special=True, **{side: True})])
    return tokenizer


KNOWN: dict[str, tuple[Callable[[], HfTokenizer], float]] = {
    "byte_level": (byte_level, 4),
    "sentencepiece_like": (sentencepiece_like, 6),
    "isolated": (lambda: split(r"\s+", "isolated"), 4),
    "nfc": (normalized(normalizers.NFC()), 12),
    "nfkc": (normalized(normalizers.NFKC()), 16),
    "sequence": (normalized(normalizers.Sequence([normalizers.NFC(), normalizers.NFKD()])), 48),
    "replace": (normalized(normalizers.Replace("aaa", "b")), 12),
    "demo": (lambda: HfTokenizer.from_file(str(ROOT / "shard/demo/target/tokenizer.json")), 0),
}
"""Tokenizers, and the bytes of their longest token times what normalizing may take away."""
UNKNOWN: dict[str, Callable[[], HfTokenizer]] = {
    "strip": normalized(normalizers.Strip()),
    "lowercase": normalized(normalizers.Lowercase()),
    "pattern": normalized(normalizers.Replace(Regex(" +"), " ")),
    "deleted": normalized(normalizers.Replace("a", "")),
    "removed": lambda: split(r"\s+", "removed"),
    "lstrip": lambda: stripping("lstrip"),
    "rstrip": lambda: stripping("rstrip"),
}
BUILT = {name: Tokenizer(build()) for name, (build, _) in KNOWN.items()}
texts = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from("the a.😀世é\u0301\u0308 \u1109\u1161\u11a8\U0001d414<s>"),
    ),
    max_size=60,
)


@pytest.mark.parametrize("name", KNOWN)
@given(text=texts, times=st.integers(1, 50))
@settings(max_examples=200, deadline=None)
def test_no_text_has_fewer_tokens_than_the_bound(name: str, text: str, times: int) -> None:
    tokenizer = BUILT[name]
    assert tokenizer.min_token_count(text * times) <= len(tokenizer.encode(text * times))


@pytest.mark.parametrize("name", [name for name in KNOWN if name != "demo"])
def test_the_bound_follows_from_the_longest_token(name: str) -> None:
    assert BUILT[name].max_token_bytes == KNOWN[name][1]


def test_the_bundled_tokenizer_has_a_bound() -> None:
    longest = max(len(BUILT["demo"].token_bytes(id)) for id in range(BUILT["demo"].size))
    assert BUILT["demo"].max_token_bytes == longest
    assert BUILT["demo"].min_token_count("a" * 10 * longest) == 10


@pytest.mark.parametrize("name", UNKNOWN)
def test_where_a_token_may_cover_any_text_there_is_no_bound(name: str) -> None:
    tokenizer = Tokenizer(UNKNOWN[name]())
    assert tokenizer.max_token_bytes == math.inf
    assert tokenizer.min_token_count("a" * 10_000) == 0


def test_an_incomplete_set_of_bytes_has_no_bound() -> None:
    state = byte_level().to_str().replace('"z":', '"zz":', 1)
    assert Tokenizer(HfTokenizer.from_str(state)).max_token_bytes == math.inf


@pytest.mark.parametrize("form", _NORMAL_FORM_FACTORS)
@given(text=texts)
@settings(max_examples=400, deadline=None)
def test_a_normal_form_shortens_a_text_by_a_bounded_factor(
    form: Literal["NFC", "NFD", "NFKC", "NFKD"], text: str
) -> None:
    shortened = unicodedata.normalize(form, text).encode()
    assert len(text.encode()) <= _NORMAL_FORM_FACTORS[form] * len(shortened)


@pytest.mark.parametrize("form", _NORMAL_FORM_FACTORS)
def test_a_normal_form_shortens_no_character_by_more(
    form: Literal["NFC", "NFD", "NFKC", "NFKD"],
) -> None:
    characters = (chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    changed = (each for each in characters if not unicodedata.is_normalized(form, each))
    assert all(
        len(each.encode()) <= _NORMAL_FORM_FACTORS[form] * len(_bytes(form, each))
        for each in changed
    )


def _bytes(form: Literal["NFC", "NFD", "NFKC", "NFKD"], character: str) -> bytes:
    return unicodedata.normalize(form, character).encode()
