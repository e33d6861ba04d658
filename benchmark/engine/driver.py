"""Run prompts through an engine in this process, Step by Step, as a router would.

Rule: decides which Steps an engine gets; must not know what it is compared with. Every row gets
all its pages at once, is prefilled entirely by the first Step and then drafts a fixed number of
tokens per round. Rows that end leave the batch and are not replaced.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from shard.attention.kv_cache import PAGE_SIZE
from shard.config import ShardConfig
from shard.engine import Engine, start_engine
from shard.wire.protocol import AppendPages, NewRow, RowResult, RowWork, Sampling, Step


@dataclass(frozen=True)
class DriveResult:
    """The tokens of each row, and how long the Steps took inside the engine."""

    tokens: list[list[int]]
    step_seconds: float
    steps: int
    drafted: int
    accepted: int


def start(target: str, draft: str | None, speculate: int, tokens: int, rows: int) -> Engine:
    """An engine on the CPU in float32 whose pool holds `rows` rows of `tokens` tokens."""
    config = cpu_config(target, draft, speculate, tokens, rows)
    return start_engine(config, lambda text, percent: None)


def cpu_config(
    target: str, draft: str | None, speculate: int, tokens: int, rows: int
) -> ShardConfig:
    """The configuration of that engine."""
    row_tokens = -(-(tokens + speculate + 1) // PAGE_SIZE) * PAGE_SIZE
    return ShardConfig(
        model_path=target,
        model_id="benchmark",
        draft_path=draft,
        rank=0,
        world=1,
        socket="",
        rendezvous="",
        speculate=speculate,
        dtype="float32",
        max_rows=rows,
        max_total_tokens=tokens,
        max_batch_total_tokens=rows * row_tokens,
    )


def drive(
    engine: Engine, prompts: Sequence[Sequence[int]], max_new: int, draft: int
) -> DriveResult:
    """Answer all `prompts` in one batch, greedily, with `draft` drafts per round."""
    engine.reset()
    numbers = itertools.count(1)
    live = list(range(len(prompts)))
    first = Step(
        next(numbers),
        (),
        tuple(_new_row(id, prompt, max_new) for id, prompt in enumerate(prompts)),
        _append_pages(prompts, max_new + draft),
        tuple(RowWork(id, len(prompt), 0) for id, prompt in enumerate(prompts)),
    )
    results = [engine.execute(first)]
    while live := _live_rows(live, results[-1].items):
        runs = tuple(RowWork(id, 0, draft) for id in live)
        results.append(engine.execute(Step(next(numbers), (), (), (), runs)))
    items = [item for result in results for item in result.items]
    return DriveResult(
        [_tokens(items, id) for id in range(len(prompts))],
        sum(result.seconds for result in results),
        len(results),
        sum(item.drafted for item in items),
        sum(item.accepted for item in items),
    )


def _new_row(id: int, prompt: Sequence[int], max_new: int) -> NewRow:
    return NewRow(id, tuple(prompt), len(prompt), max_new, False, Sampling())


def _append_pages(prompts: Sequence[Sequence[int]], extra: int) -> tuple[AppendPages, ...]:
    """Adjacent pages for each row, enough until its end."""
    free = itertools.count(1)
    counts = [-(-(len(prompt) + extra) // PAGE_SIZE) for prompt in prompts]
    return tuple(
        AppendPages(id, tuple(itertools.islice(free, count))) for id, count in enumerate(counts)
    )


def _live_rows(live: Sequence[int], items: Sequence[RowResult]) -> list[int]:
    ended = {item.id for item in items if item.end is not None}
    return [id for id in live if id not in ended]


def _tokens(items: Sequence[RowResult], id: int) -> list[int]:
    return [token for item in items if item.id == id for token in item.tokens]
