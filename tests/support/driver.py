"""Drive an engine in process, without scheduler or sockets: rows in, their tokens out.

The tokens of a row must not depend on the `DrivePlan`: most tests of the engine assert it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count

from shard.attention.kv_cache import PAGE_SIZE
from shard.engine import Engine
from shard.wire.protocol import (
    AppendPages,
    NewRow,
    ReportOptions,
    RowResult,
    RowWork,
    Sampling,
    Step,
)
from tests.support.samplings import GREEDY, TOKENS_ONLY
from tests.support.tiny import VOCABULARY


@dataclass(frozen=True)
class RowSpec:
    """One row to run: its prompt and its options."""

    prompt: tuple[int, ...]
    max_new: int = 40
    sampling: Sampling = GREEDY
    report: ReportOptions = TOKENS_ONLY
    grammar: str | None = None
    adapter: int = 0


@dataclass(frozen=True)
class DrivePlan:
    """How rows are drafted, batched and prefilled; the tokens must not depend on it."""

    draft: int = 0
    draft_lengths: tuple[int, ...] = ()
    """Draft lengths, one row each in turn; replaces `draft`."""
    batch: int = 16
    chunk: int = 1000
    forced: int = 0
    """Maximum number of tokens that a grammar forces, drafted in one round."""
    suffix: int = 0
    """Maximum number of tokens that suffix decoding drafts in one round, next to a drafter."""
    scattered: bool = False
    """Give neighbouring pages to different rows, so that no row is one span."""


def run_steps(
    specs: Sequence[RowSpec], plan: DrivePlan, execute: Callable[[Step], Sequence[RowResult]]
) -> list[RowResult]:
    """Run `specs` to their ends, `plan.batch` rows at a time. Return all row results in order."""
    items: list[RowResult] = []
    for start in range(0, len(specs), plan.batch):
        ids = range(start, min(start + plan.batch, len(specs)))
        items += _group({id: specs[id] for id in ids}, plan, execute)
    return items


def tokens_by_row(items: Sequence[RowResult], rows: int) -> list[list[int]]:
    """The tokens that each of `rows` rows emitted."""
    return [[t for item in items if item.id == id for t in item.tokens] for id in range(rows)]


def drive(engine: Engine, specs: Sequence[RowSpec], plan: DrivePlan) -> list[list[int]]:
    """The tokens that each of `specs` emits on a fresh `engine`."""
    engine.reset()
    items = run_steps(specs, plan, lambda step: engine.execute(step).items)
    return tokens_by_row(items, len(specs))


def _group(
    specs: dict[int, RowSpec], plan: DrivePlan, execute: Callable[[Step], Sequence[RowResult]]
) -> list[RowResult]:
    pending = {id: len(spec.prompt) for id, spec in specs.items()}
    step = Step(next(_STEP_NUMBERS), (), _new(specs), _grow(specs, plan.scattered), ())
    items: list[RowResult] = []
    while pending:
        step = replace(step, run=tuple(_run(id, left, plan) for id, left in pending.items()))
        done = execute(step)
        pending = {id: max(0, left - plan.chunk) for id, left in pending.items()}
        for item in done:
            items.append(item)
            if item.end is not None:
                del pending[item.id]
        step = Step(next(_STEP_NUMBERS), (), (), (), ())
    execute(Step(next(_STEP_NUMBERS), tuple(specs), (), (), ()))
    return items


_STEP_NUMBERS = count(1)


def _run(id: int, left: int, plan: DrivePlan) -> RowWork:
    draft = plan.draft_lengths[id % len(plan.draft_lengths)] if plan.draft_lengths else plan.draft
    prefill = min(left, plan.chunk)
    if prefill:
        return RowWork(id, prefill, 0)
    return RowWork(id, 0, draft, plan.forced, plan.suffix)


def _new(specs: dict[int, RowSpec]) -> tuple[NewRow, ...]:
    return tuple(
        NewRow(
            id,
            spec.prompt,
            len(spec.prompt),
            spec.max_new,
            False,
            spec.sampling,
            spec.report,
            spec.grammar,
            adapter=spec.adapter,
        )
        for id, spec in specs.items()
    )


def _grow(specs: dict[int, RowSpec], scattered: bool) -> tuple[AppendPages, ...]:
    """Pages for every row's last token and its drafts."""
    longest = max(len(spec.prompt) + spec.max_new for spec in specs.values()) + 8
    each = -(-longest // PAGE_SIZE)
    if scattered:
        return tuple(
            AppendPages(id, tuple(1 + place + len(specs) * page for page in reversed(range(each))))
            for place, id in enumerate(specs)
        )
    return tuple(
        AppendPages(id, tuple(range(1 + place * each, 1 + (place + 1) * each)))
        for place, id in enumerate(specs)
    )


ENGINE_PLANS = {
    "drafts of 1": DrivePlan(draft=1),
    "drafts of 3, alone": DrivePlan(draft=3, batch=1),
    "drafts of 5": DrivePlan(draft=5),
    "prefill in chunks of 4": DrivePlan(draft=3, chunk=4),
    "scattered pages": DrivePlan(draft=3, scattered=True),
}


def engine_specs(sampling: Sampling) -> list[RowSpec]:
    """Six prompts of 1 to 30 tokens, each with a seed of its own."""
    rng = random.Random(1)
    sizes = (1, 2, 9, 16, 17, 30)
    prompts = [tuple(rng.randrange(VOCABULARY) for _ in range(size)) for size in sizes]
    return [RowSpec(p, 24, replace(sampling, seed=index)) for index, p in enumerate(prompts)]


DEVICE_PLANS = [
    DrivePlan(draft=5, batch=1),
    DrivePlan(draft=3, batch=3, scattered=True),
    DrivePlan(draft_lengths=(5, 0, 2, 1), batch=8),
    DrivePlan(batch=8),
]


def device_specs(samplings: list[Sampling], report: ReportOptions = TOKENS_ONLY) -> list[RowSpec]:
    """A prompt for each of `samplings`, of 1 to 30 tokens; the lengths to emit differ too."""
    rng = random.Random(3)
    return [
        RowSpec(
            tuple(rng.randrange(VOCABULARY) for _ in range(rng.choice((1, 2, 9, 17, 30)))),
            rng.choice((1, 2, 7, 30)),
            replace(sampling, seed=seed),
            report,
        )
        for seed, sampling in enumerate(samplings)
    ]
