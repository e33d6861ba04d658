"""Every fault of a start is one line: the cause, what to do, and the fault's own exit status.

Rule: each row goes through the whole launcher, in this process if the launcher itself decides. Rows
that a child decides start it, so most of them run in `make nightly` only.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

import launcher
from tests.support.nightly import nightly
from tests.support.paths import ROOT
from tests.support.processes import Processes

DEMO = ROOT / "shard" / "demo"


@dataclass(frozen=True)
class Fault:
    """A start that cannot succeed, and what the operator reads."""

    name: str
    status: int
    cause: str
    remedy: str
    flags: Callable[[Path], list[str]]
    """The command line; it may create files in an empty folder."""
    environment: Callable[[Path], dict[str, str]] = lambda _: {}


def flags(*words: str) -> Callable[[Path], list[str]]:
    """A command line that needs no file."""
    return lambda _: list(words)


def model(change: Callable[[Path], object], part: str = "target") -> Callable[[Path], list[str]]:
    """The command line for a copy of a demo model to which `change` was applied."""

    def write(folder: Path) -> list[str]:
        copy = folder / part
        shutil.copytree(DEMO / part, copy)
        change(copy)
        if part == "target":
            return ["--model-id", str(copy)]
        return ["--model-id", "tgi-laps/demo-target", "--draft-model-id", str(copy)]

    return write


def config(**values: Any) -> Callable[[Path], object]:
    """A change of `config.json`."""

    def change(copy: Path) -> None:
        file = copy / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


def truncate(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def enlarge_header(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes((1 << 60).to_bytes(8, "little") + weights.read_bytes()[8:])


def pickle_weights(copy: Path) -> None:
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")


def rename_tokens(copy: Path) -> None:
    file = copy / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"] = {f"{i}?": i for i in tokenizer["model"]["vocab"].values()}
    tokenizer["model"]["merges"] = []
    file.write_text(json.dumps(tokenizer))


def break_template(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text("{{ bos_token }}\n{% for m in messages %}\n{{ m.")


def partly_cached(folder: Path) -> dict[str, str]:
    """A Hub cache that an interrupted download has left, and no network."""
    cache = folder / "hub" / "models--group--model"
    snapshot = cache / "snapshots" / ("0" * 40)
    for path in (snapshot, cache / "blobs", cache / "refs"):
        path.mkdir(parents=True)
    (cache / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text("{}")
    (cache / "blobs" / "abc.incomplete").write_bytes(b"x")
    return {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder / "hub")}


def offline(folder: Path) -> dict[str, str]:
    return {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(folder)}


LONG_PATH = "/tmp/" + "long" * 30
DECIDED_BY_THE_LAUNCHER = [
    Fault("unknown flag", 2, "unknown argument `--modle-id`", "did you mean", flags("--modle-id")),
    Fault(
        "contradicting flags",
        2,
        "`max_input_tokens`(5) must be < `max_total_tokens`(5)",
        "must be <",
        flags("--max-input-tokens", "5", "--max-total-tokens", "5"),
    ),
    Fault("heads", 2, "`num_shard`(3) must divide", "choices: 1, 2, 4", flags("--num-shard", "3")),
    Fault("address", 2, "`hostname`(192.0.2.1)", "bound", flags("--hostname", "192.0.2.1")),
    Fault("pickles only", 4, "pickled weights", "save_pretrained", model(pickle_weights)),
    Fault("truncated weights", 4, "its header implies", "download it again", model(truncate)),
    Fault("wrong header", 4, "truncated within its", "download it again", model(enlarge_header)),
    Fault(
        "recurrent state", 4, "recurrent state", "choose a model", model(config(model_type="mamba"))
    ),
    Fault(
        "own code",
        4,
        "requires the model's own code",
        "never run",
        model(config(model_type="new", auto_map={"AutoModelForCausalLM": "a.B"})),
    ),
    Fault(
        "encoder-decoder",
        4,
        "is not a causal language model",
        "config.json",
        model(config(is_encoder_decoder=True)),
    ),
    Fault(
        "no tokenizer",
        4,
        "tokenizer.json is missing",
        "copy it from",
        model(lambda copy: (copy / "tokenizer.json").unlink()),
    ),
    Fault(
        "draft vocabulary",
        4,
        "the draft's vocabulary (",
        "same family",
        model(rename_tokens, "draft"),
    ),
    Fault("no such GGUF", 3, "does not exist", ".gguf", flags("--model-id", "/absent/a.gguf")),
    Fault(
        "long socket path",
        7,
        LONG_PATH,
        "set `--shard-uds-path`",
        flags("--shard-uds-path", LONG_PATH),
    ),
    Fault("no socket folder", 7, "/absent", "not writable", flags("--shard-uds-path", "/absent/a")),
]
DECIDED_BY_A_CHILD = [
    Fault(
        "partly cached",
        3,
        "abc.incomplete",
        "network",
        flags("--model-id", "group/model"),
        partly_cached,
    ),
    Fault(
        "unknown folder",
        3,
        "`./absent/a/b` was not found",
        "on the Hub or as a folder",
        flags("--model-id", "./absent/a/b"),
        offline,
    ),
    Fault(
        "not cached",
        3,
        "`group/absent` is not cached",
        "cached models: none",
        flags("--model-id", "group/absent"),
        offline,
    ),
    Fault("chat template", 4, "chat template, line 3", "template", model(break_template)),
    Fault(
        "KV cache too large",
        6,
        "GiB free per rank",
        "lower `--max-batch-total-tokens` to at most",
        flags("--check", "--max-batch-total-tokens", "9999999999"),
    ),
]


@pytest.fixture
def start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, list[str]]]]:
    """Runs the launcher in this process; returns its exit status and the lines of its stderr."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("the fault was not found before a process was started")

    def run(*words: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["launcher.py", *words])
        monkeypatch.setattr(launcher, "serve", refuse)
        return launcher.main(), capsys.readouterr().err.splitlines()

    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield run
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def assert_is_reported(fault: Fault, status: int, line: str) -> None:
    assert status == fault.status
    assert line.startswith("Error: ")
    assert fault.cause in line
    assert fault.remedy in line


@pytest.mark.parametrize("fault", DECIDED_BY_THE_LAUNCHER, ids=lambda fault: fault.name)
def test_a_fault_that_the_launcher_finds_starts_no_process_and_is_one_line(
    fault: Fault, start: Callable[..., tuple[int, list[str]]], tmp_path: Path
) -> None:
    words = ("--port", "0", *fault.flags(tmp_path))
    if "--hostname" not in words:
        words += ("--hostname", "127.0.0.1")
    status, lines = start(*words)
    assert len(lines) == 1
    assert_is_reported(fault, status, lines[0])


@pytest.mark.parametrize(
    "fault",
    [DECIDED_BY_A_CHILD[0], *map(nightly, DECIDED_BY_A_CHILD[1:])],
    ids=lambda fault: fault.name,
)
def test_a_fault_that_a_child_finds_is_one_line_without_a_traceback(
    fault: Fault, processes: Processes, tmp_path: Path
) -> None:
    words = ("--port", "0", "--hostname", "127.0.0.1", *fault.flags(tmp_path))
    environment = fault.environment(tmp_path)
    running = processes.start(str(ROOT / "launcher.py"), *words, env=environment)
    status = running.end()
    assert_is_reported(fault, status, running.lines[-1])
    assert [line for line in running.lines if line.startswith("Error")] == running.lines[-1:]
    assert not any("Traceback" in line for line in running.lines)


def test_a_port_in_use_names_its_owner_and_a_free_port(
    start: Callable[..., tuple[int, list[str]]],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = owner.getsockname()[1]
        status, lines = start("--hostname", "127.0.0.1", "--port", str(port))
    assert status == 5
    (line,) = lines
    assert line.startswith(f"Error: PortInUse: port {port} is in use by process ")
    assert "is free: `--port " in line


@pytest.mark.parametrize("name", ["absent", "file"])
def test_a_temporary_folder_that_cannot_be_used_is_named(
    name: str,
    start: Callable[..., tuple[int, list[str]]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / name))
    status, lines = start("--hostname", "127.0.0.1", "--port", "0")
    (line,) = lines
    assert status == 7
    assert str(tmp_path / name) in line
    assert "set TMPDIR" in line
