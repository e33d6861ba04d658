"""Fixtures and options of all tests.

Every process that a test starts, or learns of, is ended by its id when the test is over.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import settings

from tests.support.paths import ROOT
from tests.support.processes import Processes, launched
from tests.support.shared_workers import close_shared_workers

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


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def end_shared_workers() -> AsyncIterator[None]:
    """The servers of a test file share their text workers, which end with it."""
    yield
    await close_shared_workers()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden")
    parser.addoption("--cases", type=int, default=25, help="fuzz cases for each operation")


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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which test process runs what with `--dist loadfile`."""
    if config.getvalue("dist") != "loadfile":
        return None
    from tests.support.distribution import SharedServerScheduling

    return SharedServerScheduling(config, log)


@pytest.fixture(scope="session")
def served_pair() -> Iterator[str]:
    """Address of the bundled pair, served by the real launcher with two shards."""
    with launched("--num-shard", "2") as server:
        yield server.url()


@pytest.fixture
def processes() -> Iterator[Processes]:
    started = Processes()
    yield started
    started.end()
