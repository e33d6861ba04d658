"""Translation between scheduler and wire: ScheduledBatch to Step, StepResult to Outcomes. Pure.

The scheduler knows numbers, the shards know rows. Decided here: that a batch's `release`, `evict`
and `swap_out` are the same to a shard's row table, and that a row which the shards do not hold is
sent as a NewRow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from router.dispatch.page_hashes import PageHasher
from router.scheduler import api
from shard.wire.protocol import (
    GRAMMAR,
    SUFFIX,
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
    End.COMPLETE: api.RowEnded.EOS,
}


class RowSource(Protocol):
    """A source of a NewRow: the router's LiveRequest."""

    @property
    def id(self) -> int:
        """The row's id."""

    def to_row(self) -> NewRow:
        """The row's current state, with nothing cached."""


def to_step(
    number: int, batch: api.ScheduledBatch, held: Collection[int], entering: Iterable[RowSource]
) -> Step:
    """The Step of `batch` for shards that hold the rows `held`; `entering` are new to them."""
    starts = {start.id: start for start in batch.start}
    return Step(
        number=number,
        release=tuple(id for id in removed_rows(batch) if id in held),
        new=tuple(_new_row(record, starts.get(record.id)) for record in entering),
        grow=tuple(AppendPages(grow.id, grow.pages) for grow in batch.grow),
        run=tuple(
            RowWork(run.id, run.prefill, run.draft, run.forced, run.suffix) for run in batch.run
        ),
        swap_out=_page_copy(
            (page, slot) for swap in batch.swap_out for page, slot in _page_slot_pairs(swap)
        ),
        copy=_page_copy((copy.source, copy.target) for copy in batch.copy),
        swap_in=_page_copy(
            (slot, page) for swap in batch.swap_in for page, slot in _page_slot_pairs(swap)
        ),
    )


def held_rows(batch: api.ScheduledBatch) -> tuple[int, ...]:
    """Rows that the shards hold after `batch`: those that run or are swapped in."""
    back = tuple(swap.id for swap in batch.swap_in)
    return (*(run.id for run in batch.run), *back)


def removed_rows(batch: api.ScheduledBatch) -> tuple[int, ...]:
    """Rows that the shards no longer hold after `batch`."""
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
    """Work and result of each row that had not ended before the Step."""
    items = {item.id: item for item in result.items}
    return [(run, items[run.id]) for run in step.run if run.id in items]


def to_outcomes(
    rows: Sequence[tuple[RowWork, RowResult]],
    seconds: float,
    page_hashers: Mapping[int, PageHasher],
) -> list[api.Outcome]:
    """The Outcomes of `rows`; each gets an equal share of the Step's `seconds`.

    The `page_hashers` of live rows advance by the emitted tokens.
    """
    return [
        api.Outcome(
            id=run.id,
            prefilled=run.prefill,
            emitted=len(item.tokens),
            seconds=seconds / len(rows),
            end=None if item.end is None else _SCHEDULER_ENDS[item.end],
            draft_cached=item.draft_cached,
            hashes=page_hashers[run.id].add(item.tokens) if run.id in page_hashers else (),
            **_draft_counts(run, item),
        )
        for run, item in rows
    ]


def _draft_counts(run: RowWork, item: RowResult) -> dict[str, int]:
    """The fields of an Outcome for what the row's Step has drafted, by what drafted it."""
    if item.drafter == GRAMMAR:
        return {"drafted": 0, "accepted": 0, "forced": item.drafted}
    if run.suffix and item.drafter == SUFFIX:
        counts = {"suffix": item.drafted, "suffix_accepted": item.accepted}
        return {"drafted": 0, "accepted": 0, **counts}
    return {"drafted": item.drafted, "accepted": item.accepted}


def is_mixed(step: Step) -> bool:
    """Whether the Step both prefills and decodes."""
    return len({run.prefill > 0 for run in step.run}) == 2


def metrics_method(step: Step) -> str:
    """The label of the Step in TGI's metrics; a mixed one counts as prefill."""
    return "prefill" if any(run.prefill for run in step.run) else "decode"
