"""The bundled pair behind the real launcher, once for all clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.processes import launched


@pytest.fixture(scope="session")
def pair() -> Iterator[str]:
    """Address of the server."""
    with launched() as server:
        yield server.url()
