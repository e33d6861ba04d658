"""What preemption costs on this rank: seconds per token of a swap and of a prefill.

Measured on Steps that the engine itself runs, so that the scheduler compares real costs. Also the
size of the host pool, which limits how much can be swapped.
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
"""Share of the host's free memory that the swap pools of all ranks may take with GPUs."""
_MEASURED_TOKENS = 256
"""Tokens of the row that is measured, if the pool holds as many."""
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class PreemptionCosts:
    """Seconds per token."""

    swap_token_seconds: float
    """One way; 0 where there is no host pool."""
    prefill_token_seconds: float


def host_pool_pages(config: ShardConfig, pages: int, page_bytes: int, device: torch.device) -> int:
    """Pages of the host pool: the configured tokens, or a default for the device.

    On CPU the default is 0: the cache is host memory already, and a larger cache is worth more.
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
    """Prefill one row of up to `max_length` tokens a few times, and swap its pages out and in."""
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
