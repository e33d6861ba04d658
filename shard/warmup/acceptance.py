"""How many drafts the target accepts, measured at warm-up on text that it writes itself.

A few rows start from one token and sample at temperature 1, as the engine serves them later. It
knows an engine only as something that executes Steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from shard.attention.kv_cache import PAGE_SIZE
from shard.warmup.step_costs import StepExecutor, WarmupLimits, start_rows
from shard.wire.protocol import NewRow, RowWork, Sampling, Step

BUDGET_SECONDS = 0.5
"""Expected time of the measured Steps."""
_ROWS = 4
_MIN_ROUNDS, _MAX_ROUNDS = 4, 32


@dataclass(frozen=True, slots=True)
class MeasuredAcceptance:
    """Sums over all rows."""

    rounds: int
    drafted: int
    accepted: int

    def __str__(self) -> str:
        if not self.drafted:
            return "expected acceptance 0%: it drafts nothing"
        return (
            f"expected acceptance {self.accepted / self.drafted:.0%},"
            f" {1 + self.accepted / self.rounds:.1f} tokens per round"
            f" ({self.drafted} drafts in text that the target samples without a prompt)"
        )


def measure_acceptance(
    engine: StepExecutor, limits: WarmupLimits, draft: int, token: int, round_seconds: float
) -> MeasuredAcceptance:
    """Run rounds of `draft` drafts each, from the prompt `token`, for about `BUDGET_SECONDS`.

    `round_seconds` is the expected time of a round, the same on every rank.
    """
    rows = min(_ROWS, limits.rows, limits.pages)
    rounds = _round_count(limits, rows, draft, round_seconds)
    if not rounds:
        return MeasuredAcceptance(0, 0, 0)
    ids = start_rows(
        engine, [_sampled_row(id, token, rounds * (draft + 1) + 1) for id in range(rows)]
    )
    step = Step(0, (), (), (), tuple(RowWork(id, 0, draft) for id in ids))
    results = [item for _ in range(rounds) for item in engine.execute(step).items]
    engine.execute(Step(0, ids, (), (), ()))
    return MeasuredAcceptance(
        rounds=len(results),
        drafted=sum(item.drafted for item in results),
        accepted=sum(item.accepted for item in results),
    )


def _round_count(limits: WarmupLimits, rows: int, draft: int, round_seconds: float) -> int:
    """As many rounds as fit into the budget, a row and the pool."""
    tokens = min(limits.length, limits.pages // rows * PAGE_SIZE)
    fitting = (tokens - 2) // (draft + 1)
    wanted = int(BUDGET_SECONDS / max(round_seconds, 1e-6))
    return max(0, min(fitting, max(_MIN_ROUNDS, min(wanted, _MAX_ROUNDS))))


def _sampled_row(id: int, token: int, max_new: int) -> NewRow:
    return NewRow(id, (token,), 1, max_new, True, Sampling(seed=id, temperature=1.0))
