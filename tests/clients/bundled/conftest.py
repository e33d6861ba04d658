"""The bundled pair behind the real launcher, once for all clients."""

from __future__ import annotations

from collections.abc import Iterator
from signal import SIGTERM

import pytest

from tests.support.paths import ROOT
from tests.support.processes import Processes


@pytest.fixture(scope="session")
def pair() -> Iterator[str]:
    """Address of the server."""
    started = Processes()
    try:
        flags = ("--hostname", "127.0.0.1", "-p", "0")
        server = started.start(str(ROOT / "launcher.py"), *flags)
        yield server.url()
        server.signal(SIGTERM)
        assert server.end() == 0
    finally:
        started.end()
