"""Text of a stream whose ids come one by one, for both families of tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.decoders import DecodeStream

from router.text.detokenizer import Detokenizer
from router.text.stop_strings import InclusiveStops
from router.text.tokenizer import TokenizationError, Tokenizer
from tests.support.families import BOS, EOS, FAMILIES

VOCABULARIES = {name: Tokenizer(tokenizer) for name, tokenizer in FAMILIES.items()}
families = pytest.mark.parametrize("family", FAMILIES)
texts = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"),
        st.sampled_from("the a.😀👩‍👩‍👧世界é\u0301 "),
    ),
    max_size=40,
)


def ids_of(family: str, text: str) -> list[int]:
    return FAMILIES[family].encode(text, add_special_tokens=False).ids


def id_of(family: str, token: str) -> int:
    id = FAMILIES[family].token_to_id(token)
    assert id is not None
    return id


def read(
    family: str, ids: list[int], prompt: tuple[int, ...] = (), stops: tuple[str, ...] = ()
) -> tuple[list[str], Detokenizer]:
    stream = Detokenizer(VOCABULARIES[family], prompt, InclusiveStops(stops))
    return [stream.push(id).text for id in ids], stream


@families
@given(text=texts)
@settings(max_examples=400, deadline=None)
def test_the_pieces_join_to_the_whole_text_without_replacement_characters(
    family: str, text: str
) -> None:
    ids = ids_of(family, text)
    pieces, stream = read(family, ids)
    assert "".join(pieces) == stream.text == FAMILIES[family].decode(ids)
    assert "\ufffd" not in stream.text


@families
@given(prompt=texts, text=texts)
@settings(max_examples=200, deadline=None)
def test_output_text_continues_the_prompt_as_one_text(family: str, prompt: str, text: str) -> None:
    head, ids = ids_of(family, "x" + prompt), ids_of(family, text)
    pieces, _ = read(family, ids, tuple(head))
    assert "".join(pieces) == FAMILIES[family].decode(head + ids)[len("x" + prompt) :]


@families
@given(text=texts, cut=st.integers(0, 200))
@settings(max_examples=200, deadline=None)
def test_a_text_that_ends_inside_a_character_ends_before_it(
    family: str, text: str, cut: int
) -> None:
    ids = ids_of(family, text)[:cut]
    pieces, stream = read(family, ids)
    assert "".join(pieces) == stream.text
    assert "\ufffd" not in stream.text
    assert FAMILIES[family].decode(ids_of(family, text)).startswith(stream.text)


@families
@given(ids=st.lists(st.integers(1, 255), max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_sampled_ids_can_be_decoded(family: str, ids: list[int]) -> None:
    pieces, stream = read(family, ids)
    assert "".join(pieces) == stream.text


def test_the_librarys_own_decode_stream_raises_where_the_detokenizer_does_not() -> None:
    """Why TextStream exists: byte tokens after a letter that turn the run invalid."""
    ids = [id_of("sentencepiece_like", name) for name in ("<0x41>", "<0x80>", "b")]
    stream = DecodeStream(skip_special_tokens=False)
    with pytest.raises(Exception, match=r"[Ii]nvalid prefix"):  # noqa: PT012
        for id in ids:
            stream.step(FAMILIES["sentencepiece_like"], id)
    assert read("sentencepiece_like", ids)[1].text.startswith("A")


def test_bytes_that_never_form_a_character_are_emitted_after_a_limit() -> None:
    ids = ids_of("byte_level", "a") + [id_of("byte_level", "ÿ")] * 20
    _, stream = read("byte_level", ids)
    assert stream.text.startswith("a\ufffd")


@families
def test_the_tokens_of_a_character_have_no_text_until_it_is_complete(family: str) -> None:
    pieces, _ = read(family, ids_of(family, "世")[-3:])
    assert [piece for piece in pieces if piece] == ["世"]
    assert pieces[-1] == "世"


@families
def test_special_tokens_are_emitted_by_name_but_not_part_of_the_text(family: str) -> None:
    word, end = ids_of(family, "the")[-1:], id_of(family, EOS)
    stream = Detokenizer(VOCABULARIES[family], ())
    pieces = [stream.push(id) for id in (*word, end, *word)]
    assert [piece.special for piece in pieces] == [False, True, False]
    assert pieces[1].text == EOS
    assert stream.text == pieces[0].text + pieces[2].text


@families
def test_a_space_before_the_first_generated_word_is_kept(family: str) -> None:
    ids = ids_of(family, "the the")
    half = ids_of(family, "the")
    pieces, _ = read(family, ids[len(half) :], tuple([id_of(family, BOS), *half]))
    assert "".join(pieces) == " the"


@families
@given(text=texts, start=st.integers(0, 40), size=st.integers(1, 6))
@settings(max_examples=400, deadline=None)
def test_a_stop_is_found_at_the_token_that_completes_it(
    family: str, text: str, start: int, size: int
) -> None:
    whole = FAMILIES[family].decode(ids_of(family, text))
    stop = whole[start : start + size]
    stream = Detokenizer(
        VOCABULARIES[family], (), InclusiveStops((stop, "never so") if stop else ("never so",))
    )
    for id in ids_of(family, text):
        stopped = stream.push(id).stopped
        assert stopped == (bool(stop) and stop in stream.text)
        if stopped:
            return
    assert not stop or stop not in stream.text


def test_a_stop_that_ends_inside_a_token_is_found_and_the_rest_is_kept() -> None:
    stream = Detokenizer(VOCABULARIES["sentencepiece_like"], (), InclusiveStops(("a th",)))
    ids = [id_of("sentencepiece_like", name) for name in ("▁a", "▁the")]
    assert [stream.push(id).stopped for id in ids] == [False, True]
    assert stream.text == "a the"


@families
def test_a_stop_may_be_the_name_of_a_special_token(family: str) -> None:
    stream = Detokenizer(VOCABULARIES[family], (), InclusiveStops((EOS,)))
    ids = (*ids_of(family, "the"), id_of(family, BOS), id_of(family, EOS))
    stopped = [stream.push(id).stopped for id in ids]
    assert stopped == [False] * (len(ids) - 1) + [True]
    assert stream.text == "the"


def test_tokens_have_their_offsets_in_bytes() -> None:
    vocabulary = VOCABULARIES["byte_level"]
    spans = json.loads(vocabulary.tokens_with_offsets("世the"))
    assert [span["id"] for span in spans] == list(vocabulary.encode("世the"))
    assert spans[-2] == {"id": id_of("byte_level", "th"), "text": "th", "start": 3, "stop": 5}


def test_a_text_that_cannot_be_encoded_raises_tokenization_error() -> None:
    with pytest.raises(TokenizationError):
        VOCABULARIES["byte_level"].encode("\ud800")


@families
def test_decoding_without_the_gil_gives_the_same_text(family: str) -> None:
    vocabulary = VOCABULARIES[family]
    ids = list(vocabulary.encode("a the 世 <s>"))
    assert vocabulary.decode_without_gil(ids) == vocabulary.decode(ids)


def test_a_tokenizer_is_loaded_from_its_file(tmp_path: Path) -> None:
    FAMILIES["byte_level"].save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.load(str(tmp_path)).special_name(id_of("byte_level", EOS)) == EOS


def test_a_broken_tokenizer_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not usable"):
        Tokenizer.load(str(tmp_path))
