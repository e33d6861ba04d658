"""Run blocking work off the event loop, in a thread.

Rule: the event loop belongs to the streams. Work that grows with what a client sends, or with a
whole response, is offloaded once it is large; small work runs inline, since a thread would cost
more. A thread yields the interpreter between two bytecodes, but not inside one call of a library:
what takes longer than a few milliseconds in one call belongs in a worker process. There is only one
thread, since the loop would have to wait for each of several in turn.
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
"""Bytes, or items that take about as long as a byte, up to which work runs inline."""
SWITCH_INTERVAL_SECONDS = 0.0005
"""How long the thread may run while the loop waits; Python's default of 5 ms is too long."""

Result = TypeVar("Result")

_EXECUTOR = ThreadPoolExecutor(1, "offload")


async def offload(size: float, function: Callable[..., Result], *args: Any) -> Result:
    """`function(*args)`, in the thread if `size` is above INLINE_LIMIT. Raises what it raises."""
    if size <= INLINE_LIMIT:
        return function(*args)
    return await asyncio.get_running_loop().run_in_executor(_EXECUTOR, partial(function, *args))


def tune_event_loop() -> None:
    """Shorten the thread switch interval, and exclude all present objects from garbage collection.

    Call it once everything that lives as long as the process exists.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    gc.collect()
    gc.freeze()
