"""Measurements are kept for later launchers, and used only for what they were made of."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from shard.loading import measurement_cache
from shard.loading.measurement_cache import (
    MAX_BYTES,
    MAX_FILES,
    MAX_USES,
    MeasurementCache,
    identity,
)
from tests.support import tiny

KEY = {"code": "a digest", "machine": ["x86_64", "some processor", 2]}


@pytest.fixture
def cache(tmp_path: Path) -> MeasurementCache:
    return MeasurementCache(KEY, tmp_path / "measurements")


def test_what_one_launcher_keeps_another_reads(cache: MeasurementCache) -> None:
    assert cache.read() == []
    values = [0.5, {"many": 2, "many_from": float("inf")}, "text"]
    cache.write(values, are_reused=False)
    assert MeasurementCache(KEY, cache.file.parent).read() == values
    assert [file.name for file in cache.file.parent.iterdir()] == [cache.file.name]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '{"values": [1]}',
        '{"key": "another", "uses": 0, "values": [1]}',
        f'{{"key": {json.dumps(json.dumps(KEY))}, "uses": "1", "digest": "", "values": [0.5]}}',
        f'{{"key": {json.dumps(json.dumps(KEY))}, "uses": 1, "digest": "", "values": [0.5]}}',
        " " * MAX_BYTES + "{}",
    ],
    ids=range(9),
)
def test_a_damaged_or_foreign_file_is_measured_again_and_logged(
    cache: MeasurementCache, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write([0.5], are_reused=False)
    cache.file.write_text(text)
    assert cache.read() == []
    (record,) = caplog.records
    assert "measuring again" in record.getMessage()
    cache.write([0.7], are_reused=False)
    assert cache.read() == [0.7]


def test_measurements_are_made_again_after_some_starts(cache: MeasurementCache) -> None:
    cache.write([0.5], are_reused=False)
    for _ in range(MAX_USES):
        assert cache.read() == [0.5]
        cache.write([0.5], are_reused=True)
    assert cache.read() == []
    cache.write([0.7], are_reused=False)
    assert cache.read() == [0.7]


def test_the_oldest_files_are_removed_and_foreign_ones_stay(cache: MeasurementCache) -> None:
    cache.write([0], are_reused=False)
    os.utime(cache.file, (1, 1))
    folder = cache.file.parent
    (folder / "notes.json").touch()
    for number in range(MAX_FILES):
        MeasurementCache({"number": number}, folder).write([number], are_reused=False)
    assert len(list(folder.iterdir())) == MAX_FILES + 1
    assert not cache.file.exists()
    assert (folder / "notes.json").exists()


def test_a_folder_that_cannot_be_written_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    MeasurementCache(KEY, tmp_path / "file").write([0.5], are_reused=False)
    assert "measurements are not kept" in caplog.text


def test_the_key_changes_with_the_weights_and_with_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1")
    config = tiny.config(str(tmp_path))
    key = identity(config)
    elsewhere = replace(config, socket="another", model_id="another", measurement_cache="another")
    assert identity(elsewhere) == key
    assert identity(replace(config, dtype="bfloat16")) != key
    assert identity(replace(config, rank=1, world=2)) != key
    (tmp_path / "model.safetensors").write_bytes(b"12")
    assert identity(config) != key


def test_the_key_changes_with_the_code_that_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, model = tmp_path / "code", tmp_path / "model"
    code.mkdir()
    model.mkdir()
    (code / "module.py").write_text("a = 1")
    monkeypatch.setattr(measurement_cache, "PACKAGE", code)
    key = identity(tiny.config(str(model)))
    (code / "notes.txt").touch()
    assert identity(tiny.config(str(model))) == key
    (code / "module.py").write_text("a = 2")
    assert identity(tiny.config(str(model))) != key
