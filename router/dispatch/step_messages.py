"""Between the scheduler's words and the wire's: Batch to Step, result to Outcomes. Pure.

The scheduler knows numbers, the shards know rows; that a Batch's `release`, `evict` and `swap_out`
are one thing to a shard's table, and that a row which it does not hold enters as New, is decided
here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from router.dispatch.page_hashes import PageHasher
from router.scheduler import api
from shard.wire.protocol import (
    AppendPages,
    End,
    NewRow,
    PageCopy,
    RowResult,
    RowWork,
    Step,
    StepResult,
)

_SCHEDULER_ENDS = {
    End.EOS: api.RowEnded.EOS,
    End.LENGTH: api.RowEnded.LENGTH,
    End.ERROR: api.RowEnded.ERROR,
}


class RowSource(Protocol):
    """A row that can enter: the router's Record."""

    @property
    def id(self) -> int:
        """Of the row."""

    def to_row(self) -> NewRow:
        """The row as it is now, with nothing cached."""


def to_step(
    number: int, batch: api.ScheduledBatch, held: Collection[int], entering: Iterable[RowSource]
) -> Step:
    """The Step of `batch` for shards that hold the rows `held`; `fresh` are those that enter."""
    starts = {start.id: start for start in batch.start}
    return Step(
        number=number,
        release=tuple(id for id in removed_rows(batch) if id in held),
        new=tuple(_new_row(record, starts.get(record.id)) for record in entering),
        grow=tuple(AppendPages(grow.id, grow.pages) for grow in batch.grow),
        run=tuple(RowWork(run.id, run.prefill, run.draft) for run in batch.run),
        swap_out=_page_copy(
            (page, slot) for swap in batch.swap_out for page, slot in _page_slot_pairs(swap)
        ),
        copy=_page_copy((copy.source, copy.target) for copy in batch.copy),
        swap_in=_page_copy(
            (slot, page) for swap in batch.swap_in for page, slot in _page_slot_pairs(swap)
        ),
    )


def held_rows(batch: api.ScheduledBatch) -> tuple[int, ...]:
    """Rows that the shards' tables hold once they have `batch`: those that run or return."""
    back = tuple(swap.id for swap in batch.swap_in)
    return (*(run.id for run in batch.run), *back)


def removed_rows(batch: api.ScheduledBatch) -> tuple[int, ...]:
    """Rows that the shards' tables hold no longer, once they have `batch`."""
    return (*batch.release, *batch.evict, *(swap.id for swap in batch.swap_out))


def _new_row(record: RowSource, start: api.RowStart | None) -> NewRow:
    new = record.to_row()
    if start is None:
        return new
    return replace(new, cached=start.cached, draft_cached=start.draft_cached)


def _page_slot_pairs(swap: api.Swap) -> Iterable[tuple[int, int]]:
    return zip(swap.pages, swap.slots, strict=True)


def _page_copy(pairs: Iterable[tuple[int, int]]) -> PageCopy:
    return PageCopy(*zip(*pairs, strict=True))


def completed_rows(step: Step, result: StepResult) -> list[tuple[RowWork, RowResult]]:
    """What was planned and what came of it, for each row that had not ended before."""
    items = {item.id: item for item in result.items}
    return [(run, items[run.id]) for run in step.run if run.id in items]


def to_outcomes(
    rows: Sequence[tuple[RowWork, RowResult]],
    seconds: float,
    page_hashers: Mapping[int, PageHasher],
) -> list[api.Outcome]:
    """What the scheduler learns from `rows`; each had an equal share of the Step's `seconds`.

    `names` of live rows follow the tokens that they emitted.
    """
    return [
        api.Outcome(
            id=run.id,
            prefilled=run.prefill,
            drafted=item.drafted,
            accepted=item.accepted,
            emitted=len(item.tokens),
            seconds=seconds / len(rows),
            end=None if item.end is None else _SCHEDULER_ENDS[item.end],
            draft_cached=item.draft_cached,
            hashes=page_hashers[run.id].add(item.tokens) if run.id in page_hashers else (),
        )
        for run, item in rows
    ]


def is_mixed(step: Step) -> bool:
    """Whether prompts run beside rows that decode."""
    return len({run.prefill > 0 for run in step.run}) == 2


def metrics_method(step: Step) -> str:
    """The label of the Step in TGI's metrics; a mixed one counts as prefill."""
    return "prefill" if any(run.prefill for run in step.run) else "decode"
