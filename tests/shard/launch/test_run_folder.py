"""A launcher's folder is its own, and is removed even if the launcher could not do it."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import ExitStack
from pathlib import Path
from signal import SIGKILL

import pytest

from shard.errors import StartupError
from shard.launch.run_folder import LOCK_NAME, PREFIX, run_folder
from tests.support.processes import Processes

HOLD = """
import signal
from shard.launch.run_folder import run_folder
with run_folder() as folder:
    (folder / "rank-0").touch()
    print("folder", folder, flush=True)
    signal.pause()
"""


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def leave(folder: Path, lock: bool = True) -> Path:
    """Leave `folder` as a dead launcher does."""
    (folder / "target").mkdir(parents=True)
    (folder / "rank-0").touch()
    if lock:
        (folder / LOCK_NAME).touch()
    return folder


def test_the_folder_is_private_and_removed_on_exit(parent: Path) -> None:
    with run_folder() as folder:
        assert folder.parent == parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "rank-0").touch()
    assert not [*parent.iterdir()]


def test_a_run_folder_that_cannot_be_created_is_error_7(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(parent / "absent"))
    with pytest.raises(StartupError, match="set TMPDIR") as caught, run_folder():
        pass
    assert caught.value.code == 7


def test_folders_of_dead_launchers_are_removed(parent: Path) -> None:
    stale = [leave(parent / f"{PREFIX}{name}") for name in "abc"]
    with run_folder() as folder:
        assert not any(map(Path.exists, stale))
        assert [*parent.iterdir()] == [folder]


def test_a_folder_whose_launcher_was_killed_is_removed_by_the_next(
    processes: Processes, parent: Path
) -> None:
    first = processes.start("-c", HOLD, env={"TMPDIR": str(parent)})
    killed = Path(first.line("folder ").split()[1])
    with run_folder():
        assert (killed / "rank-0").exists()  # it still runs
    first.signal(SIGKILL)
    assert first.end() == -SIGKILL
    assert killed.exists()
    with run_folder() as folder:
        assert [*parent.iterdir()] == [folder]


def test_folders_of_living_launchers_are_left_alone(parent: Path) -> None:
    with ExitStack() as stack:
        folders = [stack.enter_context(run_folder()) for _ in range(5)]
        assert all(map(Path.exists, folders))
        assert len({*folders}) == 5


def test_a_folder_without_a_lock_is_left_alone(parent: Path) -> None:
    other = leave(parent / f"{PREFIX}notes", lock=False)
    with run_folder():
        pass
    assert (other / "rank-0").exists()


def test_a_folder_with_another_name_is_left_alone(parent: Path) -> None:
    other = leave(parent / "tgi-other")
    with run_folder():
        pass
    assert (other / "rank-0").exists()


def test_a_folder_of_another_user_is_left_alone(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = leave(parent / f"{PREFIX}a")
    user = os.getuid()
    monkeypatch.setattr("os.getuid", lambda: user + 1)
    with run_folder():
        pass
    assert (other / "rank-0").exists()


def test_links_are_neither_followed_nor_removed(parent: Path) -> None:
    elsewhere = leave(parent / "elsewhere")
    (parent / f"{PREFIX}a").symlink_to(elsewhere)
    (stale := leave(parent / f"{PREFIX}b") / "target" / "link").symlink_to(elsewhere)
    linked = leave(parent / f"{PREFIX}c", lock=False)
    (linked / LOCK_NAME).symlink_to(elsewhere / LOCK_NAME)
    with run_folder():
        pass
    assert (parent / f"{PREFIX}a").is_symlink()
    assert not stale.is_symlink()
    assert (elsewhere / "rank-0").exists()
    assert (linked / "rank-0").exists()


def test_a_folder_that_another_launcher_is_removing_is_left_to_it(parent: Path) -> None:
    stale = leave(parent / f"{PREFIX}a")
    with (stale / LOCK_NAME).open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with run_folder():
            assert (stale / "rank-0").exists()


def test_a_file_with_such_a_name_prevents_nothing(parent: Path) -> None:
    (parent / f"{PREFIX}file").touch()
    with run_folder() as folder:
        assert folder.exists()
    assert (parent / f"{PREFIX}file").exists()
