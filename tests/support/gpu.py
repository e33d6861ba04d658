"""For tests on a device: recorded figures, device times, the bundled pair."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from statistics import median
from typing import Any

import torch

from shard.engine import Engine, start_engine
from tests.support import tiny
from tests.support.paths import DEMO

Record = Callable[[str, Any], None]
"""The fixture `record`: `record(name, value)` adds a figure to the result file."""
TARGET, DRAFT = (str(DEMO / part) for part in ("target", "draft"))
_REPEATS = 20


def milliseconds(work: Callable[[], object]) -> float:
    """The median time that the device takes for `work`."""
    work()
    times = []
    for _ in range(_REPEATS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return float(median(times))


@cache
def engine(
    target: str,
    draft: str | None,
    dtype: str = "float32",
    resident: bool = False,
    max_swap_tokens: int | None = None,
) -> Engine:
    """An engine on the device. By default its rounds are the host's, not the device's."""
    changes = {"dtype": dtype, "resident": resident, "max_swap_tokens": max_swap_tokens}
    return start_engine(tiny.config(target, draft, **changes), lambda text, percent: None)
