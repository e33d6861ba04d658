"""The file of learned state: what comes back, and what is one warning and a fresh start."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from router.dispatch import learned_state as learned
from router.dispatch.learned_state import (
    MAGIC,
    MAGIC_PREFIX,
    SchedulerStateFile,
    save_periodically,
    state_path,
)
from tests.support.processes import TIMEOUT_SECONDS

LEARNED: dict[str, Any] = {"lengths": {"3": [1, 2.5]}, "survival": [0.5, 0.25], "count": 7}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "not" / "yet" / "there"


def written(path: Path, model: str = "m") -> bytes:
    store = SchedulerStateFile(path, model)
    store.save(store.serialize(LEARNED))
    return path.read_bytes()


def test_what_was_kept_is_found_by_the_next_process(path: Path) -> None:
    assert SchedulerStateFile(path, "m").load() is None
    written(path)
    assert SchedulerStateFile(path, "m").load() == LEARNED
    assert [file.name for file in path.parent.iterdir()] == ["there"]


@pytest.mark.parametrize("length", [0, len(MAGIC_PREFIX), len(MAGIC), len(MAGIC) + 5, -1])
def test_a_damaged_file_is_one_warning_and_then_replaced(
    path: Path, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(written(path)[:length])
    store = SchedulerStateFile(path, "m")
    assert store.load() is None
    [line] = caplog.messages
    assert "starts without learned state" in line
    store.save(store.serialize(LEARNED))
    assert SchedulerStateFile(path, "m").load() == LEARNED


def test_the_state_of_another_model_is_one_warning(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(path, "another")
    assert SchedulerStateFile(path, "m").load() is None
    assert len(caplog.messages) == 1


def test_the_file_of_another_program_is_never_written(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"dear diary")
    store = SchedulerStateFile(path, "m")
    assert store.load() is None
    store.save(store.serialize(LEARNED))
    assert path.read_bytes() == b"dear diary"
    assert len(caplog.messages) == 1


def test_a_place_that_cannot_be_written_is_one_warning_for_one_state(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.joinpath("file").touch()
    store = SchedulerStateFile(tmp_path / "file" / "state", "m")
    for _ in range(3):
        store.save(store.serialize(LEARNED))
    assert len(caplog.messages) == 1


async def test_it_is_kept_now_and_then(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learned, "SAVE_INTERVAL_SECONDS", 0.001)
    asked, thrice = count(1), asyncio.Event()

    def state() -> dict[str, Any]:
        number = next(asked)
        if number == 3:  # by now the second is in the file
            thrice.set()
        return {"count": number}

    task = asyncio.ensure_future(save_periodically(SchedulerStateFile(path, "m"), state))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await thrice.wait()
    found = SchedulerStateFile(path, "m").load()
    assert found
    assert found["count"] >= 2
    task.cancel()


async def test_it_is_kept_at_the_end(path: Path) -> None:
    task = asyncio.ensure_future(save_periodically(SchedulerStateFile(path, "m"), lambda: LEARNED))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert SchedulerStateFile(path, "m").load() == LEARNED


def test_the_default_place_is_the_state_folder_and_differs_by_model() -> None:
    there = {"XDG_STATE_HOME": "/state"}
    one, other = state_path(None, "a/b", there), state_path(None, "a-b", there)
    assert one
    assert one.parent == Path("/state/text-generation-laps")
    assert one.name.startswith("a-b-")
    assert other != one == state_path(None, "a/b", there)
    for environment in ({}, {"XDG_STATE_HOME": ""}, {"XDG_STATE_HOME": "relative"}):
        found = state_path(None, "a/b", environment)
        assert found == Path.home() / ".local/state/text-generation-laps" / one.name


def test_a_wish_is_followed_and_none_is_nowhere() -> None:
    assert state_path("here", "m", {}) == Path("here")
    assert state_path("none", "m", {}) is None
    nowhere = SchedulerStateFile(None, "m")
    nowhere.save(nowhere.serialize(LEARNED))
    assert nowhere.load() is None
