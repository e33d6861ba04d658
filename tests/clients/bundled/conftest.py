"""The bundled pair behind the real launcher, once for all clients."""

from __future__ import annotations

import pytest


@pytest.fixture
def pair(served_pair: str) -> str:
    """Address of the server."""
    return served_pair
