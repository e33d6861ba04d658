"""What Steps cost, measured at warm-up on Steps that the engine itself runs.

The result is a table by number of rows and draft length; from it follow one draft forward (the
paper's T_SSM) and one verification forward (T_LLM) for one row. It knows an engine only as
something that executes Steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from shard.attention.kv_cache import PAGE_SIZE
from shard.batch.packing import TokenSpan
from shard.model.product_times import AcrossRanks
from shard.rounds.drafter import Drafter, DraftRequest
from shard.wire.protocol import (
    AppendPages,
    Ids,
    MeasuredStep,
    NewRow,
    RowWork,
    Sampling,
    Step,
    StepResult,
)

WARMUP_BUDGET_SECONDS = 1.0
"""Seconds of measured Steps after which only one larger number of rows is measured, without drafts:
it shows what a token costs in addition to reading the weights."""
_ROUNDS = 3
_CATCH_UP_STEPS = 8


@dataclass(frozen=True, slots=True)
class MeasuredStepCosts:
    """Seconds: of one draft and one verify forward for one row, and of whole Steps."""

    draft_token_seconds: float
    verify_seconds: float
    catch_up_seconds: float
    """Per token that the drafter has to catch up."""
    table: tuple[MeasuredStep, ...]


@dataclass(frozen=True, slots=True)
class WarmupLimits:
    """The engine's limits: rows of a Step, tokens of a row, pages of the pool."""

    rows: int
    length: int
    pages: int


class ZeroDrafter(Drafter):
    """Fills every request with zeros: the stand-in for a drafter that may find nothing."""

    name = "zeros"

    def propose(self, requests: Sequence[DraftRequest], prefills: Sequence[TokenSpan]) -> None:
        """See `Drafter`."""
        for request in requests:
            request.drafts = [0] * request.count


class StepExecutor(Protocol):
    """The part of the engine that warm-up drives."""

    def execute(self, step: Step) -> StepResult:
        """Run one Step."""

    def reset(self) -> None:
        """Forget every row."""


def measure_step_costs(
    engine: StepExecutor,
    limits: WarmupLimits,
    speculate: int,
    keeps_cache: bool,
    across_ranks: AcrossRanks,
) -> MeasuredStepCosts:
    """Time a few Steps of every size, the smallest first, within `WARMUP_BUDGET_SECONDS`.

    `keeps_cache`: the drafter has a cache, which falls behind in Steps without drafts.
    `across_ranks` turns each rank's seconds into one value, so that all ranks stop after the same
    Step.
    """
    table = _measure_table(engine, limits, speculate, across_ranks)
    catch_up = across_ranks(_measure_catch_up(engine, limits)) if keeps_cache else 0.0
    engine.reset()
    alone = [cell for cell in table if cell.rows == 1]
    verify, longest = alone[0].seconds, alone[-1]
    drafts = max(0.0, longest.seconds - verify) / max(1, longest.draft)
    return MeasuredStepCosts(drafts, verify, catch_up, tuple(table))


def _measure_table(
    engine: StepExecutor, limits: WarmupLimits, speculate: int, across_ranks: AcrossRanks
) -> list[MeasuredStep]:
    table: list[MeasuredStep] = []
    for rows in _row_counts(limits):
        late = sum(cell.seconds for cell in table) * (_ROUNDS + 1) > WARMUP_BUDGET_SECONDS
        for draft in [0] if late else _draft_lengths(limits, rows, speculate):
            seconds = across_ranks(_fastest_step(engine, rows, draft))
            table.append(MeasuredStep(rows, draft, seconds))
        if late:
            break
    return table


def decode_seconds(engine: StepExecutor, rows: int = 1, draft: int = 0) -> float:
    """Seconds of one Step of `rows` rows with drafts of `draft` tokens, without prefill.

    The engine must hold no rows.
    """
    seconds = _fastest_step(engine, rows, draft)
    engine.reset()
    return seconds


def _row_counts(limits: WarmupLimits) -> list[int]:
    """Numbers of rows to measure: powers of four, and the maximum."""
    limit = min(limits.rows, limits.pages)
    return sorted({*(4**power for power in range(8) if 4**power < limit), limit})


def _draft_lengths(limits: WarmupLimits, rows: int, speculate: int) -> list[int]:
    """Draft lengths for which the pool holds all rounds; costs between them are linear."""
    tokens = min(limits.length, limits.pages // rows * PAGE_SIZE)
    longest = min(speculate, max(1, (tokens - 2) // (_ROUNDS + 1) - 1))
    return sorted({0, min(1, longest), longest})


def _fastest_step(engine: StepExecutor, rows: int, draft: int) -> float:
    """Seconds of the fastest round: other load on the machine only makes rounds slower."""
    rounds = _ROUNDS + 1  # the first run of a shape allocates
    ids = _start_rows(engine, rows, 1 + rounds * (draft + 1))
    step = Step(0, (), (), (), tuple(RowWork(id, 0, draft) for id in ids))
    seconds = [engine.execute(step).seconds for _ in range(rounds)]
    engine.execute(Step(0, ids, (), (), ()))
    return min(seconds[1:])


def _measure_catch_up(engine: StepExecutor, limits: WarmupLimits) -> float:
    """Seconds per token of a gap: the first drafting Step after some without, minus the next."""
    gap = min(_CATCH_UP_STEPS, min(limits.length, limits.pages * PAGE_SIZE) // 2 - 5)
    if gap < 1:
        return 0.0  # gaps in so short a context cost nothing worth measuring
    [id] = _start_rows(engine, 1, 1 + 2 * (gap + 4))
    plain, drafted = (Step(0, (), (), (), (RowWork(id, 0, draft),)) for draft in (0, 1))
    for _ in range(2):  # the first time of a shape allocates
        for _ in range(gap):
            engine.execute(plain)
        late, usual = (engine.execute(drafted).seconds for _ in range(2))
    engine.execute(Step(0, (id,), (), (), ()))
    return max(0.0, late - usual) / gap


def _start_rows(engine: StepExecutor, rows: int, tokens: int) -> Ids:
    """Start greedy rows 0 to `rows` - 1, each of which may emit `tokens` tokens; return the ids."""
    start_rows(engine, [NewRow(id, (0,), 1, tokens, True, Sampling()) for id in range(rows)])
    return tuple(range(rows))


def start_rows(engine: StepExecutor, new: Sequence[NewRow]) -> StepResult:
    """Start `new`, rows 0, 1, ..., and prefill their prompts."""
    ids = tuple(row.id for row in new)
    each = 1 + max(row.prompt + row.max_new - 1 for row in new) // PAGE_SIZE
    pages = [tuple(range(1 + id * each, 1 + (id + 1) * each)) for id in ids]
    grow = tuple(map(AppendPages, ids, pages))
    work = tuple(RowWork(row.id, row.prompt, 0) for row in new)
    return engine.execute(Step(0, (), tuple(new), grow, work))
