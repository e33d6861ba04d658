"""Fixtures and options of all tests.

Every process that a test starts, or learns of, is ended by its id when the test is over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.paths import ROOT
from tests.support.processes import Processes

settings.register_profile("no deadline", deadline=None)  # tests assert no timing
settings.load_profile("no deadline")
if not Path("/proc/driver/nvidia/version").exists():  # read when triton is first imported
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Servers store learned state and measurements in temporary folders, not in the user's.

    Servers of one test process that are configured alike start sooner from the same measurements.
    """
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden")
    parser.addoption("--cases", type=int, default=50, help="fuzz cases for each operation")


@pytest.fixture
def golden(pytestconfig: pytest.Config) -> Callable[[str, bytes], None]:
    """Compare bytes with that file under tests/golden; `--update-golden` rewrites it."""

    def compare(name: str, actual: bytes) -> None:
        path = ROOT / "tests" / "golden" / name
        if pytestconfig.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(actual)
        assert actual == path.read_bytes()

    return compare


@pytest.fixture
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    started.end()
