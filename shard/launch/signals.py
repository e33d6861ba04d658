"""SIGTERM and SIGINT while the launcher cannot act on them: the kernel holds them until it can.

So a signal in the first moments of a start, or in the last of an end, is neither lost nor does it
end the process with a status of its own.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""The signals that ask the server to stop."""


def hold() -> None:
    """Let stop signals wait, in this thread, from now on."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


@contextmanager
def delivered() -> Iterator[None]:
    """Deliver stop signals inside the block, first those that wait; it needs their handlers."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        hold()
