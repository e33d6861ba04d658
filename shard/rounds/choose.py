"""A Step's rows, done by one of two rounds: the host's, or one that stays where the models run.

`Rounds.refusal` is the one rule that chooses, by name and from Steps alone, so that all ranks
choose alike. The host's round (`host_round`) does everything and is done when it returns. A
resident one is started and lands later; until then the host's rows are as they were. So a round of
the host's, which reads them, begins when all others have landed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shard.attention.kv_cache import PAGE_SIZE
from shard.batch.rows import CachedRow
from shard.model.packed_model import PackedModel
from shard.rounds.device_round import (
    FLAG_ALIVE,
    FLAG_FINITE,
    FLAG_HAS_PAGES,
    DeviceRound,
    RoundResult,
    decode_result,
)
from shard.rounds.device_rows import DeviceRowTable, sampling_kind, unsupported_option, upload
from shard.rounds.drafters import NORMAL_LAG, Drafter, ModelDrafter
from shard.rounds.host_round import RowTask
from shard.rounds.round_graphs import RoundGraphs
from shard.step_handle import PendingRound
from shard.wire.protocol import End, ProtocolError, RowResult

_TABLE_FACTOR = 2
"""Times the rows of a Step: how many the device's table holds, with those kept in place."""


class AsyncResultCopy:
    """A result on its way to the host, which need not wait for it."""

    def __init__(self, result: Tensor) -> None:
        """On CUDA the copy goes to pinned memory, behind the round itself, and then an event."""
        cuda = result.is_cuda
        self._host_copy = torch.empty(result.shape, dtype=result.dtype, pin_memory=cuda)
        self._host_copy.copy_(result, non_blocking=cuda)
        self._event: Any = torch.cuda.Event() if cuda else None
        if self._event is not None:
            self._event.record()

    def is_complete(self) -> bool:
        """Whether it is here."""
        return self._event is None or bool(self._event.query())

    def wait(self) -> list[RoundResult]:
        """What it says, once it is here."""
        if self._event is not None:
            self._event.synchronize()
        return decode_result(self._host_copy)


@dataclass(frozen=True, slots=True)
class DeviceRoundHandle:
    """A resident round."""

    rounds: DeviceRounds
    rows: Sequence[CachedRow]
    draft_up_to_date: Sequence[bool]
    """Whether the draft's cache took in the newest tokens of each row."""
    result_copy: AsyncResultCopy

    def is_complete(self) -> bool:
        """See `PendingRound`."""
        return self.result_copy.is_complete()

    def finish(self) -> tuple[RowResult, ...]:
        """See `PendingRound`. Raises ProtocolError if a row lacked pages."""
        lines = zip(self.rows, self.result_copy.wait(), self.draft_up_to_date, strict=True)
        items = [self.rounds.apply_result(row, line, rides) for row, line, rides in lines]
        return tuple(item for item in items if item is not None)


class DeviceRounds:
    """Resident rounds of `target`, drafted by `drafter` if that is a model."""

    def __init__(
        self,
        target: PackedModel,
        drafter: Drafter | None,
        rows: int,
        length: int,
        drafts: int,
    ) -> None:
        """For Steps of up to `rows` rows of up to `length` tokens and `drafts` drafts."""
        self._drafter = drafter if isinstance(drafter, ModelDrafter) else None
        self._device, self._eos = target.facts.device, target.facts.eos
        self._slots = _TABLE_FACTOR * rows
        pages = -(-length // PAGE_SIZE)
        self._table = DeviceRowTable(self._slots, pages, target.facts.vocab_size, self._device)
        resident = DeviceRound(target, self._drafter, self._table)
        self._run: RoundGraphs | Callable[..., Tensor] = resident.run
        if target.uses_graphs:
            most = drafts if self._drafter is not None else 0
            self._run = RoundGraphs(resident, rows, most, self._device)

    def why_not_on_device(self, tasks: Sequence[RowTask]) -> str | None:
        """What the host's round is needed for, if it is."""
        if len(tasks) > self._slots:
            return "more rows than the device's table holds"
        if self._drafter is None and any(work.draft for work in tasks):
            return "drafts that are not a model's"
        return next(filter(None, map(self._unsupported_feature, tasks)), None)

    def launch(self, tasks: Sequence[RowTask], complete_all: Callable[[], None]) -> PendingRound:
        """Start the round of `works`; `settle` lets all others land, if room is needed.

        Raises ProtocolError for a row that cannot decode.
        """
        rows = [work.row for work in tasks]
        if not self._table.can_hold(rows):
            complete_all()
            self._table.keep_only(row.id for row in rows)
        drafts = max(work.draft for work in tasks)
        gaps = [self._draft_lag(row) for row in rows]
        entries = self._table.ensure_rows(rows)
        most = max(sampling_kind(row.sampling) for row in rows)
        asked = [work.draft if gap <= 0 else -1 for work, gap in zip(tasks, gaps, strict=True)]
        numbers = [[entry.slot for entry in entries], asked]
        reach = max(1, *(entry.page_count for entry in entries))
        with torch.inference_mode():
            slots = upload(numbers, torch.int64, self._device)
            landing = AsyncResultCopy(self._run(slots, drafts, most, reach))
        rode = [drafts > 0 and gap <= 0 for gap in gaps]
        for entry, gap, rides in zip(entries, gaps, rode, strict=True):
            entry.draft_lag = 0 if rides else gap + 1
        return DeviceRoundHandle(self, rows, rode, landing)

    def mark_stale(self, tasks: Sequence[RowTask]) -> None:
        """The host's round did `works`."""
        self._table.mark_stale(work.row for work in tasks)

    def remove(self, ids: Sequence[int]) -> None:
        """Rows that are released."""
        self._table.remove(ids)

    def clear(self) -> None:
        """Forget every row."""
        self._table.keep_only(())

    def apply_result(
        self, row: CachedRow, result: RoundResult, draft_up_to_date: bool
    ) -> RowResult | None:
        """Move the host's `row` on as the device's has moved; None if it had ended before.

        Raises ProtocolError if the row lacked pages for its tokens.
        """
        if not result.flags & FLAG_ALIVE:
            return None
        known = len(row.tokens)
        if not result.flags & FLAG_HAS_PAGES:
            raise ProtocolError(
                f"row {row.id} has no page for position {known + result.drafted - 1}"
            )
        if not result.flags & FLAG_FINITE:
            row.done = True
            return RowResult(row.id, (), (), result.drafted, 0, End.ERROR)
        row.cached = known + result.accepted
        if (
            draft_up_to_date
            and self._drafter is not None
            and known <= self._drafter.model.facts.max_length
        ):
            row.draft_cached = known + max(0, min(result.accepted, result.drafted - 1))
        kept, end = row.append(result.tokens[: result.accepted + 1], self._eos)
        if len(row.tokens) != result.token_count:
            raise RuntimeError(f"row {row.id} has {result.token_count} tokens on the device")
        return RowResult(
            id=row.id,
            tokens=tuple(kept),
            logprobs=tuple(result.logprobs[: len(kept)]),
            drafted=result.drafted,
            accepted=min(result.accepted, len(kept)),
            end=end,
            draft_cached=row.cached if self._drafter is None else row.draft_cached,
        )

    def _unsupported_feature(self, task: RowTask) -> str | None:
        """Why `work` must be the host's. Nothing here may depend on what has landed."""
        row = task.row
        option = unsupported_option(row.sampling, row.report)
        obstacles = {
            "a prefill": task.prefill > 0,
            "a row of one token": len(row.tokens) < 2,
            "a grammar": row.matcher is not None,
            f"`{option}`": option is not None,
            "a draft that has fallen behind": task.draft > 0 and self._draft_lag(row) > 0,
        }
        return next((name for name, met in obstacles.items() if met), None)

    def _draft_lag(self, row: CachedRow) -> int:
        """At most so many tokens does the draft lack beyond those that a round feeds anyway."""
        entry = self._table.find(row)
        if entry is not None:
            return entry.draft_lag
        known = len(row.tokens)
        if self._drafter is None or known > self._drafter.model.facts.max_length:
            return 0  # there is nothing to be done about it
        return known - row.draft_cached - NORMAL_LAG
