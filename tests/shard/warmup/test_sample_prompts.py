"""Sample prompts have the form that the model of a folder was made for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from shard.warmup.sample_prompts import TEXTS, NoSamplePrompts, sample_prompts
from tests.support.families import BOS, byte_level

CHAT = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
GENERATION = "{% if add_generation_prompt %}<assistant>{% endif %}"
CHATS = [f"{BOS}<user>{text}<assistant>" for text in TEXTS]
SPECIAL = {"bos_token": {"content": BOS}, "eos_token": None, "add_bos_token": True}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    """A tokenizer that begins plain text with a special token, saved in `tmp_path`."""
    tokenizer = byte_level()
    begin = (BOS, tokenizer.token_to_id(BOS))
    tokenizer.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[begin])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tokenizer


def decoded(folder: Path, tokenizer: Tokenizer) -> list[str]:
    prompts = sample_prompts(folder, tokenizer.get_vocab_size())
    return [tokenizer.decode(prompt, skip_special_tokens=False) for prompt in prompts]


def write(folder: Path, **files: Any) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


def test_without_a_template_they_are_plain_text(tmp_path: Path, tokenizer: Tokenizer) -> None:
    assert decoded(tmp_path, tokenizer) == [BOS + text for text in TEXTS]


NAMED = [{"name": "tools", "template": "no"}, {"name": "default", "template": CHAT + GENERATION}]


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {**SPECIAL, "chat_template": CHAT + GENERATION}},
        {"tokenizer_config": {**SPECIAL, "chat_template": NAMED}},
        {
            "tokenizer_config": {"chat_template": CHAT + GENERATION},
            "special_tokens_map": {"bos_token": BOS},
        },
        {
            "tokenizer_config": {"chat_template": "no", "bos_token": BOS},
            "chat_template": {"chat_template": CHAT + GENERATION},
            "special_tokens_map": {"bos_token": "no"},
        },
    ],
)
def test_they_are_chats_in_the_form_of_the_template(
    tmp_path: Path, tokenizer: Tokenizer, files: dict[str, Any]
) -> None:
    write(tmp_path, **files)
    assert decoded(tmp_path, tokenizer) == CHATS


def test_a_template_in_a_file_of_its_own_comes_first(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write(tmp_path, tokenizer_config={**SPECIAL, "chat_template": "no"})
    (tmp_path / "chat_template.jinja").write_text(CHAT + GENERATION)
    assert decoded(tmp_path, tokenizer) == CHATS


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("tokenizer.json", "{", "tokenizer.json is damaged: "),
        ("tokenizer_config.json", "[]", "must be a JSON object"),
        ("chat_template.jinja", "{% if %}", "the chat template fails: "),
        ("chat_template.jinja", "{{ raise_exception('tools only') }}", "fails: tools only"),
        ("chat_template.jinja", "{{ messages[7].content }}", "the chat template fails: "),
        ("chat_template.jinja", "{{ 1 / 0 }}", "the chat template fails: "),
        ("chat_template.jinja", "", "does not fit the model's vocabulary"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, tokenizer: Tokenizer, name: str, content: str, reason: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(NoSamplePrompts) as caught:
        sample_prompts(tmp_path, tokenizer.get_vocab_size())
    assert reason in str(caught.value)


def test_a_folder_needs_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(NoSamplePrompts, match="is missing"):
        sample_prompts(tmp_path, 100)


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(NoSamplePrompts, match="does not fit"):
        sample_prompts(tmp_path, 100)
