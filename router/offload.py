"""Work that would hold up every stream, done in a thread.

Rule: the loop belongs to the streams. What grows with what a client sends, or with a whole answer,
is done aside once it is large; a small thing is done at once, since a thread costs more than it.
A thread gives the interpreter back between two steps of Python, but not inside one call of a
library: what takes longer than a few milliseconds in one call belongs in a worker process. And it
is one thread, since the loop would have to wait for each of several in turn.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

INLINE_LIMIT = 1 << 14
"""Bytes, or things that take about as long as a byte, that the loop deals with itself."""
SWITCH_INTERVAL_SECONDS = 0.0005
"""How long a thread may go on while the loop waits; Python's own 5 ms add up over a token."""

Result = TypeVar("Result")

_EXECUTOR = ThreadPoolExecutor(1, "aside")


async def offload(size: float, function: Callable[..., Result], *args: Any) -> Result:
    """`work(*values)`, in the thread if `size` is more than AT_ONCE. Raises what it raises."""
    if size <= INLINE_LIMIT:
        return function(*args)
    return await asyncio.get_running_loop().run_in_executor(_EXECUTOR, partial(function, *args))


def tune_event_loop() -> None:
    """Threads give way soon, and the collector never looks at what was there from the start.

    To be called once all that lives as long as the process is there.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    gc.collect()
    gc.freeze()
