"""The one error with which the router refuses to start, or ends."""

from __future__ import annotations

FAILED, BAD_FLAG, BAD_MODEL, DEAD_SHARD = 1, 2, 4, 8
"""Exit statuses of the faults that this process can meet."""


class Fault(Exception):
    """The router cannot start or go on: an exit status, and one line on cause and cure."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
