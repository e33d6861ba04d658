"""End-of-sequence ids are those of the folder that the model has, whatever else it names."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shard.loading.token_ids import drop_invalid_ids, eos_ids

VOCABULARY = 100


def folder_with(folder: Path, text: str | None) -> Path:
    if text is not None:
        (folder / "generation_config.json").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        (None, 0, {0}),
        (None, None, set()),
        (None, [1, 0], {0, 1}),
        ("{}", 5, {5}),
        ('{"eos_token_id": null}', 5, {5}),
        ('{"eos_token_id": []}', 5, {5}),
        ('{"eos_token_id": 0}', 5, {0}),
        ('{"eos_token_id": [7, 8]}', 5, {7, 8}),
    ],
)
def test_the_generation_configuration_comes_before_the_model_configuration(
    tmp_path: Path, generation: str | None, config: Any, expected: set[int]
) -> None:
    found = eos_ids(folder_with(tmp_path, generation), config, VOCABULARY)
    assert found.ids == expected
    assert not found.warnings


@pytest.mark.parametrize(
    "value", [100, -1, 10**30, 2.0, True, "2", [[2]], {"id": 2}, [100, "x"], [None]]
)
def test_what_is_not_an_id_of_the_vocabulary_is_ignored_with_a_warning(
    tmp_path: Path, value: Any
) -> None:
    folder = folder_with(tmp_path, json.dumps({"eos_token_id": value}))
    found = eos_ids(folder, 5, VOCABULARY)
    assert found.ids == {5}
    assert len(found.warnings) == (len(value) if isinstance(value, list) else 1)
    for warning in found.warnings:
        assert "in generation_config.json is ignored" in warning
        assert "\n" not in warning


@pytest.mark.parametrize("text", ["{", "[]", "5", "", "null"])
def test_a_damaged_generation_configuration_is_ignored_with_a_warning(
    tmp_path: Path, text: str
) -> None:
    found = eos_ids(folder_with(tmp_path, text), [3], VOCABULARY)
    assert found.ids == {3}
    (warning,) = found.warnings
    assert warning.startswith("generation_config.json is not used")


@given(st.lists(st.integers(-5, 105)), st.integers(1, 100))
def test_exactly_the_ids_inside_the_vocabulary_are_kept(values: list[int], vocabulary: int) -> None:
    found = eos_ids(Path("no such folder"), values, vocabulary)
    assert found.ids == {id for id in values if 0 <= id < vocabulary}
    assert len(found.warnings) == sum(not 0 <= id < vocabulary for id in values)


def test_ids_that_only_a_module_would_read_are_dropped_if_they_are_invalid() -> None:
    config = SimpleNamespace(bos_token_id=0, pad_token_id=100)
    (warning,) = drop_invalid_ids(config, VOCABULARY)
    assert warning.startswith("`pad_token_id` 100 in config.json is ignored")
    assert (config.bos_token_id, config.pad_token_id) == (0, None)
