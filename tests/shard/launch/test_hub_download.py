"""A download ends in a folder, or in one line that says what to do."""

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
from shard.launch import hub_download
from tests.support.processes import Processes

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


def download_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> StartupError:
    def refuse(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(hub_download, "snapshot_download", refuse)
    with pytest.raises(StartupError) as caught:
        hub_download.download_model("someone/smal", None)
    return caught.value


def status(code: int) -> httpx2.Response:
    return httpx2.Response(code, request=httpx2.Request("GET", "https://hub.invalid"))


def test_a_cached_model_needs_no_network(processes: Processes, cache: Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    running = processes.start("-m", "shard.launch.hub_download", env=offline, stdin=-1)
    job = {"model_id": "someone/small", "revision": REVISION}
    assert running.process.stdin
    running.process.stdin.write(json.dumps(job).encode() + b"\n")
    running.process.stdin.close()
    found = json.loads(running.line("found"))
    assert Path(found["path"], "config.json").exists()
    assert running.end() == 0


def test_the_error_for_a_model_that_is_not_cached_names_the_cached_ones(cache: Path) -> None:
    with pytest.raises(StartupError, match="no network; cached models: someone/small") as caught:
        hub_download.download_model("nobody/nothing", None)
    assert caught.value.code == 3


def test_a_typo_is_answered_with_the_nearest_cached_model(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = download_error(monkeypatch, RepositoryNotFoundError("404", response=status(404)))
    assert error.code == 3
    assert "`someone/smal` was not found on the Hub or as a folder" in error.text
    assert "nearest cached model is `someone/small`" in error.text


def test_a_path_that_is_not_a_folder_is_not_looked_up(cache: Path) -> None:
    with pytest.raises(StartupError, match="not found on the Hub or as a folder"):
        hub_download.download_model("/no/such/folder", None)


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (GatedRepoError("403", response=status(403)), 3, "accept its licence at https://"),
        (RevisionNotFoundError("404", response=status(404)), 3, "has no revision"),
        (LocalEntryNotFoundError("offline"), 3, "no network"),
        (OSError(errno.ENOSPC, "No space left"), 7, "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), 3, "cannot be downloaded"),
    ],
)
def test_each_failure_has_its_own_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, text: str
) -> None:
    startup_error = download_error(monkeypatch, error)
    assert startup_error.code == code
    assert text in startup_error.text
    assert "\n" not in startup_error.text


def test_progress_is_emitted_as_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    with hub_download.ProgressReporter(total=4, desc="files", mininterval=0) as bar:
        bar.update(2)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"event": "progress", "text": "files", "percent": 50} in events


def test_bytes_are_reported_by_the_bar_that_knows_their_total(
    capsys: pytest.CaptureFixture[str],
) -> None:
    size, bytes_ = 8 << 20, {"unit": "B", "mininterval": 0}
    with hub_download.ProgressReporter(desc="Downloading", **bytes_) as bar:
        bar.update(size // 2)
    with hub_download.ProgressReporter(total=size, desc="Writing: x", **bytes_) as bar:
        bar.update(size // 2)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"event": "progress", "text": "Writing: 4 of 8 MB", "percent": 50} in events
    assert not [event for event in events if event["text"].startswith("Downloading")]
