"""How pytest-xdist distributes tests: a file's tests run in one process.

Rule: so do all files whose tests call the served pair, so that its server starts once.
"""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

SERVED_PAIR = ("tests/clients/bundled/", "tests/test_exactness.py", "tests/test_served_pair.py")
"""Beginnings of the paths of those files."""


class SharedServerScheduling(LoadFileScheduling):  # type: ignore[misc]
    """`--dist loadfile` with one unit of work for all files of `SERVED_PAIR`."""

    def _split_scope(self, nodeid: str) -> str:
        """The unit of work to which a test belongs."""
        return "served pair" if nodeid.startswith(SERVED_PAIR) else super()._split_scope(nodeid)
