"""A model id names at most one GGUF file; what cannot be converted is refused with the cure."""

from __future__ import annotations

from pathlib import Path

import pytest

from shard.errors import StartupError
from shard.gguf import selection
from shard.gguf.selection import check_gguf, find_gguf
from tests.support.gguf_files import header

MODEL = header({"general.architecture": "llama"}, [("w", (32,), 0, 0)]) + bytes(128)


def write(file: Path, content: bytes = MODEL) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    return file


def refusal(model: Path | str) -> StartupError:
    with pytest.raises(StartupError) as caught:
        find_gguf(str(model))
    assert "\n" not in caught.value.text
    return caught.value


@pytest.mark.parametrize("name", ["model.gguf", "model.GGUF", "Model-Q4_K_M.gguf", "model.bin"])
def test_a_gguf_file_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    assert find_gguf(str(file)) == file


def test_the_only_gguf_file_of_a_folder_is_the_model(tmp_path: Path) -> None:
    file = write(tmp_path / "model-Q8_0.gguf")
    (tmp_path / "README.md").write_text("")
    (tmp_path / "config.json").write_text("{}")
    assert find_gguf(str(tmp_path)) == file


def test_safetensors_come_before_a_gguf_file(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert find_gguf(str(tmp_path)) is None


@pytest.mark.parametrize("model", ["someone/model", "folder", "someone/Model-GGUF"])
def test_other_ids_name_no_gguf_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_gguf(model) is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    fault = refusal(tmp_path / "absent.gguf")
    assert (fault.code, fault.text) == (3, f"`{tmp_path / 'absent.gguf'}` does not exist")


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf", "pytorch_model.bin"])
def test_another_kind_of_file_is_refused_with_the_cure(tmp_path: Path, name: str) -> None:
    fault = refusal(write(tmp_path / name, b"PK\x03\x04"))
    assert fault.code == 4
    assert fault.text.endswith("is neither a folder nor a GGUF file; name the folder of the model")


def test_several_files_in_a_folder_are_listed(tmp_path: Path) -> None:
    for name in ("b.gguf", "a.gguf"):
        write(tmp_path / name)
    fault = refusal(tmp_path)
    assert fault.code == 4
    assert fault.text == f"{tmp_path} holds 2 GGUF files: a.gguf, b.gguf; name one of them"


@pytest.mark.parametrize("names_file", [True, False])
@pytest.mark.parametrize("part", [1, 2, 3])
def test_a_part_of_a_split_file_is_refused_with_the_cure(
    tmp_path: Path, part: int, names_file: bool
) -> None:
    file = write(tmp_path / f"model-{part:05}-of-00003.gguf")
    fault = refusal(file if names_file else tmp_path)
    assert fault.code == 4
    assert "is one of 3 parts of a split GGUF file" in fault.text
    assert "llama-gguf-split --merge" in fault.text


def test_a_renamed_part_of_a_split_file_is_refused(tmp_path: Path) -> None:
    metadata = {"general.architecture": "llama", "split.count": 4}
    file = write(tmp_path / "model.gguf", header(metadata, [("w", (32,), 0, 0)]) + bytes(128))
    with pytest.raises(StartupError, match="is one of 4 parts"):
        check_gguf(file)


@pytest.mark.parametrize(
    "content",
    [header({"general.architecture": "llama"}), header({}, [("w", (1,), 0, 0)]) + b"1234"],
)
def test_a_file_without_a_model_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(StartupError, match="holds no model"):
        check_gguf(write(tmp_path / "model.gguf", content))


def test_a_missing_package_is_refused_with_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "find_spec", lambda name: None)
    with pytest.raises(StartupError, match=r"pip install 'tgi-laps\[gguf\]'") as caught:
        check_gguf(write(tmp_path / "model.gguf"))
    assert caught.value.code == 4
    assert "the packages gguf and accelerate" in caught.value.text
