"""What giving up pages costs on this rank: seconds per token of a swap and of a prefill.

Measured with Steps that the engine itself runs, so the ladder compares what it will really pay.
Also how large the host pool is, which is the other half of that question.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass

import torch

from shard.attention.kv_cache import PAGE_SIZE
from shard.config import ShardConfig
from shard.warmup.step_costs import StepExecutor
from shard.wire.protocol import AppendPages, NewRow, PageCopy, RowWork, Sampling, Step

_HOST_MEMORY_FRACTION = 0.25
"""Share of the host's free memory that the pools of all ranks may take beside a GPU."""
_MEASURED_TOKENS = 256
"""Tokens of the row that is measured, where the pool holds as many."""
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class PreemptionCosts:
    """Seconds per token."""

    swap_token_seconds: float
    """One way; 0 where there is no host pool."""
    prefill_token_seconds: float


def host_pool_pages(config: ShardConfig, pages: int, page_bytes: int, device: torch.device) -> int:
    """Slots of the host pool: the flag's tokens, or what suits the device.

    On CPU the cache is host memory already: a larger cache is worth more than a second pool.
    """
    if config.max_swap_tokens is not None:
        return config.max_swap_tokens // PAGE_SIZE
    if device.type == "cpu":
        return 0
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(pages, int(free * _HOST_MEMORY_FRACTION / config.world) // page_bytes)


def measure_preemption_costs(
    engine: StepExecutor, max_length: int, host_slots: int
) -> PreemptionCosts:
    """Prefill one row of up to `room` tokens a few times, and move its pages to `slots`."""
    tokens = min(_MEASURED_TOKENS, max_length - 1)
    pages = tuple(range(1, 2 + tokens // PAGE_SIZE))
    new = NewRow(0, (0,) * tokens, tokens, 1, True, Sampling())
    prefill = Step(0, (), (new,), (AppendPages(0, pages),), (RowWork(0, tokens, 0),))
    seconds = []
    for _ in range(_ROUNDS):
        engine.reset()
        seconds.append(_time(engine, prefill))
    engine.reset()
    # The first prefill of a shape allocates; the last ones do not.
    return PreemptionCosts(
        _swap_token_seconds(engine, pages[:host_slots]), statistics.median(seconds[1:]) / tokens
    )


def _swap_token_seconds(engine: StepExecutor, pages: tuple[int, ...]) -> float:
    if not pages:
        return 0.0
    slots = tuple(range(len(pages)))
    out = Step(0, (), (), (), (), swap_out=PageCopy(pages, slots))
    back = Step(0, (), (), (), (), swap_in=PageCopy(slots, pages))
    ways = [_time(engine, out) + _time(engine, back) for _ in range(_ROUNDS + 1)]
    return statistics.median(ways[1:]) / 2 / (len(pages) * PAGE_SIZE)


def _time(engine: StepExecutor, step: Step) -> float:
    start = time.perf_counter()
    engine.execute(step)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
