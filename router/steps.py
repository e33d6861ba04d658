"""Between the scheduler's words and the wire's: Batch to Step, result to Outcomes. Pure.

The scheduler knows numbers, the shards know rows; that a Batch's `release` and `evict` are one
thing to a shard, and that a row which it does not hold enters as New, is decided here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from router.record import Record
from router.scheduler import base
from shard.protocol import End, Grow, Item, Run, Step, StepResult

_ENDS = {End.EOS: base.End.EOS, End.LENGTH: base.End.LENGTH, End.ERROR: base.End.ERROR}


def step(number: int, batch: base.Batch, held: Collection[int], fresh: Iterable[Record]) -> Step:
    """The Step of `batch` for shards that hold the rows `held`; `fresh` are those that enter."""
    return Step(
        number=number,
        release=tuple(id for id in (*batch.release, *batch.evict) if id in held),
        new=tuple(record.new() for record in fresh),
        grow=tuple(Grow(grow.id, grow.pages) for grow in batch.grow),
        run=tuple(Run(run.id, run.prefill, run.draft) for run in batch.run),
    )


def done(step: Step, result: StepResult) -> list[tuple[Run, Item]]:
    """What was planned and what came of it, for each row that had not ended before."""
    items = {item.id: item for item in result.items}
    return [(run, items[run.id]) for run in step.run if run.id in items]


def outcomes(rows: Sequence[tuple[Run, Item]], seconds: float) -> list[base.Outcome]:
    """What the scheduler learns from `rows`; each had an equal share of the Step's `seconds`."""
    return [
        base.Outcome(
            id=run.id,
            prefilled=run.prefill,
            drafted=item.drafted,
            accepted=item.accepted,
            emitted=len(item.tokens),
            seconds=seconds / len(rows),
            end=None if item.end is None else _ENDS[item.end],
        )
        for run, item in rows
    ]


def method(step: Step) -> str:
    """The label of the Step in TGI's metrics; a mixed one counts as prefill."""
    return "prefill" if any(run.prefill for run in step.run) else "decode"
