"""A draft is judged by the share of the target's text that it has tokens for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard.errors import StartupError
from shard.loading.draft_vocabulary import (
    LOW_SHARE,
    MIN_SHARE,
    SharedVocabulary,
    Vocabulary,
    covered_share,
    read_vocabulary,
    shared_vocabulary,
)

SPECIAL = [{"id": 9000, "content": "<s>"}]
WORDS = [f"word{index}" for index in range(1000)]


def model(folder: Path, vocab: Any, added: Any = SPECIAL, size: int = 16) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"vocab_size": size}))
    if vocab is not None:
        tokenizer = {"model": {"vocab": vocab}, "added_tokens": added}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def numbered(*pieces: str) -> dict[str, int]:
    return {piece: id for id, piece in enumerate(pieces)}


def pair(tmp_path: Path, target: Any, draft: Any) -> SharedVocabulary:
    return shared_vocabulary(model(tmp_path / "target", target), model(tmp_path / "draft", draft))


def refusal(tmp_path: Path, target: Any, draft: Any) -> StartupError:
    with pytest.raises(StartupError) as caught:
        pair(tmp_path, target, draft)
    assert "\n" not in caught.value.text
    return caught.value


def test_a_draft_of_another_vocabulary_is_refused_with_sizes_and_a_token(tmp_path: Path) -> None:
    fault = refusal(tmp_path, numbered(*"abc"), numbered(*"xwyz"))
    assert fault.code == 4
    assert "(5 tokens) shares 1 with the target's (4), which cover 0% of" in fault.text
    assert "'a' is absent in the draft, 0 in the target" in fault.text


def test_a_draft_that_shares_most_tokens_is_mapped_to_the_targets_ids(tmp_path: Path) -> None:
    found = pair(tmp_path, numbered(*"abc"), numbered(*"acd"))
    assert found.draft_ids == {0: 0, 2: 1, 9000: 9000}
    assert found.share == pytest.approx(2 / 3)


def test_equal_vocabularies_need_no_map_and_no_warning(tmp_path: Path) -> None:
    assert pair(tmp_path, numbered(*WORDS), numbered(*WORDS)) == SharedVocabulary(None, 1.0)
    assert SharedVocabulary(None, 1.0).warning is None


@pytest.mark.parametrize(
    "draft",
    [
        WORDS[900:],
        WORDS[::3],
        WORDS[:40],
        WORDS[500:],
        [f"other{index}" for index in range(1000)],
        [*WORDS[:30], *(f"other{index}" for index in range(30))],
    ],
    ids=["the rarest", "every third", "the first 40", "the rare half", "none", "half its own"],
)
def test_a_draft_that_can_write_little_of_the_targets_text_is_refused(
    tmp_path: Path, draft: list[str]
) -> None:
    fault = refusal(tmp_path, numbered(*WORDS), numbered(*draft))
    assert fault.code == 4
    assert fault.text.endswith("choose a draft of the same family")


@pytest.mark.parametrize(
    ("draft", "warns"),
    [
        (WORDS[:500], True),
        (WORDS[::-1], False),
        (WORDS[:950], False),
        ([*WORDS[:300], *WORDS[400:]], False),
        ([word for index, word in enumerate(WORDS) if index % 3], True),
    ],
    ids=["the frequent half", "other ids", "all but the rarest", "some less", "two thirds"],
)
def test_a_draft_that_can_write_most_of_it_is_used_and_reported_if_it_lacks_much(
    tmp_path: Path, draft: list[str], warns: bool
) -> None:
    found = pair(tmp_path, numbered(*WORDS), numbered(*draft))
    assert found.draft_ids is not None
    assert len(found.draft_ids) == len(draft) + 1
    assert (found.warning is not None) == warns == (found.share < LOW_SHARE)
    if found.warning:
        assert f"covers {found.share:.0%} of the target's use" in found.warning


def test_bytes_and_added_tokens_that_all_vocabularies_have_do_not_count(tmp_path: Path) -> None:
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)] + [chr(code) for code in range(256, 512)]
    specials = [{"id": 9000 + index, "content": f"<s{index}>"} for index in range(500)]
    target = model(tmp_path / "target", numbered(*bytes_, *WORDS), specials)
    draft = model(tmp_path / "draft", numbered(*bytes_, *WORDS[900:]), specials)
    with pytest.raises(StartupError, match="which cover 2% of the target's text"):
        shared_vocabulary(target, draft)


def test_the_tokens_of_a_unigram_vocabulary_are_numbered_by_index(tmp_path: Path) -> None:
    target = model(tmp_path / "target", [["a", -1.0], ["b", -2.0]])
    assert read_vocabulary(target) == Vocabulary({"a": 0, "b": 1, "<s>": 9000}, frozenset(("<s>",)))


def test_without_tokenizers_the_sizes_are_compared(tmp_path: Path) -> None:
    target = model(tmp_path / "target", None)
    shared_vocabulary(target, model(tmp_path / "same", None))
    with pytest.raises(StartupError, match=r"\(8\) is not the target's \(16\)"):
        shared_vocabulary(target, model(tmp_path / "draft", None, size=8))


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"model": 3}',
        '{"model": {}}',
        '{"model": {"vocab": 3}}',
        '{"model": {"vocab": [1]}}',
        '{"model": {"vocab": {"a": "x"}}}',
        '{"model": {"vocab": {}}, "added_tokens": [{"id": 3}]}',
        '{"model": {"vocab": {}}, "added_tokens": 3}',
    ],
)
def test_a_file_that_is_no_tokenizer_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(StartupError) as caught:
        read_vocabulary(tmp_path)
    assert caught.value.code == 4
    assert f"{tmp_path / 'tokenizer.json'} is damaged: " in caught.value.text


@given(st.lists(st.sampled_from(WORDS), max_size=60), st.sampled_from(WORDS))
def test_a_larger_draft_covers_more_and_the_share_is_a_share(pieces: list[str], one: str) -> None:
    target = Vocabulary(numbered(*WORDS, "<s>"), frozenset(("<s>",)))
    share, more = covered_share(target, {*pieces}), covered_share(target, {*pieces, one})
    assert 0 <= share <= more <= 1
    assert (share == more) == (one in pieces)
    assert covered_share(target, set(WORDS)) == pytest.approx(1)
    assert MIN_SHARE < LOW_SHARE
