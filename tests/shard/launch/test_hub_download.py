"""What the Hub answers becomes a folder, or one line that says what to do."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from shard.errors import StartupError
from shard.launch import hub_download as fetch

REVISION = "0123456789012345678901234567890123456789"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with one complete model, `someone/small`, and no network."""
    snapshot = tmp_path / "models--someone--small" / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def answer(monkeypatch: pytest.MonkeyPatch, error: Exception) -> StartupError:
    def refuse(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(fetch, "snapshot_download", refuse)
    with pytest.raises(StartupError) as caught:
        fetch.download_model("someone/smal", None)
    return caught.value


def status(code: int) -> httpx2.Response:
    return httpx2.Response(code, request=httpx2.Request("GET", "https://hub.invalid"))


def test_a_cached_model_is_found_without_network(processes, cache: Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    running = processes.start("-m", "shard.launch.hub_download", env=offline, stdin=-1)
    wish = {"model_id": "someone/small", "revision": REVISION}
    running.process.stdin.write(json.dumps(wish).encode() + b"\n")
    running.process.stdin.close()
    found = json.loads(running.line("found"))
    assert Path(found["path"], "config.json").exists()
    assert running.end() == 0


def test_a_model_that_is_not_cached_names_those_that_are(cache: Path) -> None:
    with pytest.raises(StartupError, match="no network; cached models: someone/small") as caught:
        fetch.download_model("nobody/nothing", None)
    assert caught.value.code == 3


def test_a_typo_is_answered_with_the_nearest_cached_name(cache: Path, monkeypatch) -> None:
    fault = answer(monkeypatch, RepositoryNotFoundError("404", response=status(404)))
    assert fault.code == 3
    assert "`someone/smal` was not found on the Hub or as a folder" in fault.text
    assert "nearest cached model is `someone/small`" in fault.text


def test_a_path_that_is_no_folder_is_not_looked_up(cache: Path) -> None:
    with pytest.raises(StartupError, match="not found on the Hub or as a folder"):
        fetch.download_model("/no/such/folder", None)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (GatedRepoError("403", response=status(403)), 3, "accept the licence at https://"),
        (RevisionNotFoundError("404", response=status(404)), 3, "has no revision"),
        (LocalEntryNotFoundError("offline"), 3, "no network"),
        (OSError(errno.ENOSPC, "No space left"), 7, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), 3, "could not be fetched"),
    ],
)
def test_each_refusal_has_its_line(cache: Path, monkeypatch, error, code, text) -> None:
    fault = answer(monkeypatch, error)
    assert fault.code == code
    assert text in fault.text
    assert "\n" not in fault.text


def test_progress_is_an_event(capsys) -> None:
    with fetch.ProgressReporter(total=4, desc="files", mininterval=0) as bar:
        bar.update(2)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"event": "progress", "text": "files", "percent": 50} in events
