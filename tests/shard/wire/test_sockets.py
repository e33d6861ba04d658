"""A socket that cannot be made is said before any rank starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from shard.errors import StartupError
from shard.wire import sockets


def test_a_socket_prefix_in_a_missing_folder_is_error_7(tmp_path: Path) -> None:
    with pytest.raises(StartupError) as caught:
        sockets.socket_paths(str(tmp_path / "absent" / "socket"), tmp_path, 1)
    assert caught.value.code == 7
    assert str(tmp_path / "absent") in caught.value.text


def test_a_socket_path_that_is_too_long_is_error_7(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="longer than 107 bytes"):
        sockets.socket_paths(str(tmp_path / ("x" * 100)), tmp_path, 2)


def test_the_rank_is_appended_to_a_socket_prefix_as_in_tgi(tmp_path: Path) -> None:
    assert sockets.socket_paths("/tmp/here", tmp_path, 2) == ("/tmp/here-0", "/tmp/here-1")
