"""A conversion is kept under a name that changes with the file, once and only when complete."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Barrier, Thread

import pytest

from shard.gguf import conversion_cache
from shard.gguf.conversion_cache import converted_folder, create_once


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "SmolLM2 (Q4_1).gguf"
    path.write_bytes(b"GGUF")
    return path


def folder(file: Path, dtype: str | None = None) -> Path:
    return converted_folder(file, dtype, {"XDG_CACHE_HOME": str(file.parent / "cache")})


def test_the_folder_lies_in_the_xdg_cache_and_has_a_readable_name(file: Path) -> None:
    path = folder(file, "bfloat16")
    assert path.parent == file.parent / "cache" / "text-generation-laps" / "gguf"
    assert path.name.startswith("SmolLM2-Q4_1-bfloat16-")


@pytest.mark.parametrize("environment", [{}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "rel"}])
def test_without_an_absolute_setting_it_lies_in_the_home_folder(
    file: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(file.parent))
    path = converted_folder(file, None, environment)
    assert path.parent == file.parent / ".cache" / "text-generation-laps" / "gguf"


def test_an_unchanged_file_has_the_same_folder_by_every_path(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = file.with_name("link.gguf")
    link.symlink_to(file)
    monkeypatch.chdir(file.parent)
    assert folder(link) == folder(file)
    cache = {"XDG_CACHE_HOME": str(file.parent / "cache")}
    assert converted_folder(Path(file.name), None, cache) == folder(file)


def test_another_content_time_dtype_or_converter_has_another_folder(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [folder(file).name, folder(file, "float16").name, folder(file, "float32").name]
    file.write_bytes(b"GGUF, but longer")
    os.utime(file, ns=(1, 1))
    names.append(folder(file).name)
    os.utime(file, ns=(1, 2))
    names.append(folder(file).name)
    monkeypatch.setattr(conversion_cache, "CONVERTER_VERSION", 0)
    names.append(folder(file).name)
    monkeypatch.setattr(conversion_cache, "version", lambda package: "0")
    names.append(folder(file).name)
    assert len(set(names)) == len(names)


def test_an_existing_folder_is_not_written_again(tmp_path: Path) -> None:
    create_once(tmp_path / "a" / "b", lambda path: (path / "x").touch())

    def refuse(path: Path) -> None:
        raise AssertionError("it exists already")

    create_once(tmp_path / "a" / "b", refuse)
    assert (tmp_path / "a" / "b" / "x").exists()


def test_a_failed_conversion_leaves_no_folder_and_can_be_repeated(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        (path / "half").touch()
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        create_once(tmp_path / "model", fail)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    create_once(tmp_path / "model", lambda path: (path / "whole").touch())
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["whole"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "model.partial").mkdir()
    (tmp_path / "model.partial" / "half").touch()
    create_once(tmp_path / "model", lambda path: (path / "whole").touch())
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["whole"]
    assert not (tmp_path / "model.partial").exists()


def test_of_several_at_once_one_converts_and_the_others_wait(tmp_path: Path) -> None:
    barrier, writers = Barrier(4), []

    def convert(path: Path) -> None:
        writers.append(path)
        (path / "whole").touch()

    def start() -> None:
        barrier.wait()
        create_once(tmp_path / "model", convert)

    threads = [Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(writers) == 1
    assert (tmp_path / "model" / "whole").exists()
