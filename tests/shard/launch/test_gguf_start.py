"""The launcher serves a GGUF file: converted at the first start, found converted at the second."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest
from transformers.models.llama import LlamaConfig

from tests.support import tiny
from tests.support.families import byte_level
from tests.support.gguf_files import write_model
from tests.support.nightly import nightly
from tests.support.paths import ROOT
from tests.support.processes import Processes, Running

TOKENIZER = byte_level()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A GGUF file alone in its folder."""
    config = LlamaConfig(**{**tiny.SHAPE, "vocab_size": TOKENIZER.get_vocab_size()})
    original = Path(tiny.save_model(config, tmp_path / "original", 0))
    (tmp_path / "served").mkdir()
    return write_model(original, tmp_path / "served" / "tiny.gguf", "llama", TOKENIZER)


def start(processes: Processes, model: Path, *flags: str, cache: Path) -> Running:
    address = ("--hostname", "127.0.0.1", "-p", "0")
    arguments = (str(ROOT / "launcher.py"), *address, "--model-id", str(model), *flags)
    return processes.start(*arguments, env={"XDG_CACHE_HOME": str(cache)})


def answer(url: str) -> list[int]:
    """Token ids of a greedy answer."""
    body: dict[str, Any] = {"inputs": "the", "parameters": {"max_new_tokens": 8, "details": True}}
    request = urllib.request.Request(
        f"{url}/generate", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return [token["id"] for token in json.loads(response.read())["details"]["tokens"]]


@pytest.mark.parametrize("starts", [1, nightly(2)])
def test_the_second_start_uses_the_conversion_of_the_first(
    processes: Processes, file: Path, tmp_path: Path, starts: int
) -> None:
    answers, conversions = [], []
    for model in (file, file.parent)[:starts]:
        running = start(processes, model, cache=tmp_path / "cache")
        answers.append(answer(running.url()))
        conversions.append([line for line in running.lines if "de-quantizing" in line])
        running.signal(SIGTERM)
        assert running.end() == 0
    assert conversions[0]
    assert conversions[1:] == [[]] * (starts - 1)
    assert len(answers[0]) == 8
    assert answers == answers[:1] * starts
    assert len([path for path in (tmp_path / "cache").rglob("model.safetensors")]) == 1


def test_a_damaged_file_is_one_line_and_starts_no_process(
    processes: Processes, file: Path, tmp_path: Path
) -> None:
    file.write_bytes(file.read_bytes()[:-100])
    running = start(processes, file, cache=tmp_path / "cache")
    assert running.end() == 4
    assert running.lines[-1].startswith(f"Error: ModelRefused: {file} has ")
    assert running.lines[-1].endswith("; download it again")
    assert not (tmp_path / "cache").exists()


@pytest.mark.nightly
def test_a_file_that_cannot_be_converted_is_one_line(
    processes: Processes, file: Path, tmp_path: Path
) -> None:
    content = file.read_bytes()
    file.write_bytes(content.replace(b"blk.1.ffn_up", b"blk.1.ffn_xx"))
    running = start(processes, file, "--check", cache=tmp_path / "cache")
    assert running.end() == 4
    assert running.lines[-1] == (
        f"Error: ModelRefused: {file} lacks 1 tensors of `llama`, such as"
        " model.layers.1.mlp.up_proj.weight"
    )


@pytest.mark.nightly
def test_a_cache_that_cannot_be_written_is_one_line(
    processes: Processes, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    running = start(processes, file, cache=tmp_path / "cache")
    assert running.end() == 7
    assert "cannot be written: Not a directory" in running.lines[-1]
