"""How many drafts the target accepts, measured at warm-up on its answers to sample prompts.

Text without a prompt would say little: what a model samples then is unlike its answers. Every other
answer is greedy, the others are sampled, as chats are by default. It knows an engine only as
something that executes Steps, and prompts only as token ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shard.attention.kv_cache import PAGE_SIZE
from shard.warmup.step_costs import StepExecutor, WarmupLimits, start_rows
from shard.wire.protocol import Ids, NewRow, RowResult, RowWork, Sampling, Step

BUDGET_SECONDS = 0.5
"""Expected time of the measured Steps."""
_MIN_ROUNDS, _MAX_ROUNDS = 4, 32


@dataclass(frozen=True, slots=True)
class MeasuredAcceptance:
    """Sums over all rows."""

    rounds: int
    accepted: int
    rejected: int
    """Drafts that differed; those after them in a round are not counted, so that the rate does not
    depend on the length of drafts."""

    def __str__(self) -> str:
        compared = self.accepted + self.rejected
        if not compared:
            return "expected acceptance 0%: it drafts nothing"
        return (
            f"expected acceptance {self.accepted / compared:.0%},"
            f" {1 + self.accepted / self.rounds:.1f} tokens per round"
            f" ({compared} drafts compared in answers to sample prompts)"
        )


def measure_acceptance(
    engine: StepExecutor,
    limits: WarmupLimits,
    draft: int,
    prompts: Sequence[Ids],
    round_seconds: float,
) -> MeasuredAcceptance:
    """Run rounds of `draft` drafts each, one row per prompt, for about `BUDGET_SECONDS`.

    A row takes part until its answer ends. `round_seconds` is the expected time of a round, the
    same on every rank. Prompts beyond the limit of rows are not used; the others are cut to a
    quarter of the room of a row.
    """
    count = min(len(prompts), limits.rows, limits.pages)
    room = min(limits.length, limits.pages // max(1, count) * PAGE_SIZE)
    cut = [prompt[: max(1, room // 4)] for prompt in prompts[:count]]
    rounds = _round_count(room - max(map(len, cut), default=0), draft, round_seconds)
    if not rounds:
        return MeasuredAcceptance(0, 0, 0)
    max_new = rounds * (draft + 1) + 1
    rows = [_row(id, prompt, max_new) for id, prompt in enumerate(cut)]
    results = list(_run_rounds(engine, rows, rounds, draft))
    return MeasuredAcceptance(
        rounds=len(results),
        accepted=sum(item.accepted for item in results),
        rejected=sum(item.accepted < min(item.drafted, len(item.tokens)) for item in results),
    )


def _round_count(room: int, draft: int, round_seconds: float) -> int:
    """As many rounds as fit into the budget and into `room` tokens of a row after its prompt."""
    fitting = (room - 1) // (draft + 1)
    wanted = int(BUDGET_SECONDS / max(round_seconds, 1e-6))
    return max(0, min(fitting, max(_MIN_ROUNDS, min(wanted, _MAX_ROUNDS))))


def _row(id: int, prompt: Ids, max_new: int) -> NewRow:
    sampling = Sampling(seed=id, temperature=float(id % 2))
    return NewRow(id, prompt, len(prompt), max_new, False, sampling)


def _run_rounds(
    engine: StepExecutor, rows: Sequence[NewRow], rounds: int, draft: int
) -> Iterator[RowResult]:
    """The results of at most `rounds` rounds on `rows`, which are released afterwards."""
    items = start_rows(engine, rows).items
    for _ in range(rounds):
        work = tuple(RowWork(item.id, 0, draft) for item in items if item.end is None)
        if not work:
            break
        items = engine.execute(Step(0, (), (), (), work)).items
        yield from items
    engine.execute(Step(0, tuple(row.id for row in rows), (), (), ()))
