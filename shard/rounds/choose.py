"""Device rounds: which Steps they can do, how they start, and how their results are applied.

`DeviceRounds.why_not_on_device` is the one rule that chooses between the two rounds. It names its
reason and depends on Steps alone, so that all ranks choose alike. The host's round (`host_round`)
can do everything and has finished when it returns. A device round is started and finishes later;
until then the host's rows are as they were. So a host round, which reads them, begins when all
others have finished.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from shard.attention.kv_cache import PAGE_SIZE
from shard.batch.rows import CachedRow
from shard.model.packed_model import PackedModel
from shard.rounds.device_round import DeviceRound
from shard.rounds.device_rows import DeviceRowTable, sampling_kind, unsupported_option, upload
from shard.rounds.drafter import Drafter
from shard.rounds.host_round import RowTask
from shard.rounds.model_drafter import NORMAL_LAG
from shard.rounds.round_graphs import RoundGraphs
from shard.rounds.round_result import (
    FLAG_ALIVE,
    FLAG_FINITE,
    FLAG_HAS_PAGES,
    AsyncResultCopy,
    RoundResult,
)
from shard.wire.protocol import End, ProtocolError, RowResult

_TABLE_FACTOR = 2
"""Slots of the device's table per row of a Step, so that rows which pause keep their slots."""


class DeviceRounds:
    """Device rounds of `target`, with drafts if `drafter` is resident."""

    def __init__(
        self,
        target: PackedModel,
        drafter: Drafter | None,
        rows: int,
        length: int,
        drafts: int,
    ) -> None:
        """For Steps of up to `rows` rows of up to `length` tokens and `drafts` drafts."""
        self._keeps_cache = drafter is not None and drafter.keeps_cache
        self._drafter = None if drafter is None else drafter.device_drafter
        self._device, self._eos = target.facts.device, target.facts.eos
        self._slots = _TABLE_FACTOR * rows
        pages = -(-length // PAGE_SIZE)
        self._table = DeviceRowTable(self._slots, pages, target.facts.vocab_size, self._device)
        device_round = DeviceRound(target, self._drafter, self._table)
        self._run: RoundGraphs | Callable[..., Tensor] = device_round.run
        if target.uses_graphs:
            longest = drafts if self._drafter is not None else 0
            self._run = RoundGraphs(device_round, rows, longest, self._device)

    def why_not_on_device(self, tasks: Sequence[RowTask]) -> str | None:
        """Why the host's round is needed; None if a device round can do `tasks`."""
        if len(tasks) > self._slots:
            return "more rows than the device's table holds"
        on_host = any(task.suffix for task in tasks)
        if on_host or (self._drafter is None and any(task.draft for task in tasks)):
            return "a drafter that runs on the host"
        return next(filter(None, map(self._unsupported_feature, tasks)), None)

    def launch(self, tasks: Sequence[RowTask], complete_all: Callable[[], None]) -> AsyncResultCopy:
        """Start a round for `tasks`. `complete_all` finishes all others, if slots must be freed.

        Raises ProtocolError for a row that cannot decode.
        """
        rows = [task.row for task in tasks]
        if not self._table.can_hold(rows):
            complete_all()
            self._table.keep_only(row.id for row in rows)
        drafts = max(task.draft for task in tasks)
        lags = [self._draft_lag(row) for row in rows]
        entries = self._table.ensure_rows(rows)
        kind = max(sampling_kind(row.sampling) for row in rows)
        max_drafts = [task.draft if lag <= 0 else -1 for task, lag in zip(tasks, lags, strict=True)]
        slots = [entry.slot for entry in entries]
        max_pages = max(1, *(entry.page_count for entry in entries))
        up_to_date = [drafts > 0 and lag <= 0 for lag in lags]
        with torch.inference_mode():
            slots_and_drafts = upload([slots, max_drafts], torch.int64, self._device)
            result = self._run(slots_and_drafts, drafts, kind, max_pages)
            copy = AsyncResultCopy(result, partial(self._apply_results, rows, up_to_date))
        for entry, lag, current in zip(entries, lags, up_to_date, strict=True):
            entry.draft_lag = 0 if current else lag + 1
        return copy

    def mark_stale(self, tasks: Sequence[RowTask]) -> None:
        """The host's round has advanced the rows of `tasks`."""
        self._table.mark_stale(task.row for task in tasks)

    def remove(self, ids: Sequence[int]) -> None:
        """Forget rows that are released."""
        self._table.remove(ids)

    def clear(self) -> None:
        """Forget every row."""
        self._table.keep_only(())

    def _apply_results(
        self,
        rows: Sequence[CachedRow],
        up_to_date: Sequence[bool],
        results: Sequence[RoundResult],
    ) -> tuple[RowResult, ...]:
        """Advance the host's rows as the device's were; rows that had ended before are left out.

        `up_to_date` says whether the draft's cache took in the newest tokens of each row. Raises
        ProtocolError if a row lacked pages for its tokens.
        """
        lines = zip(rows, results, up_to_date, strict=True)
        return tuple(
            self._apply_result(row, result, current)
            for row, result, current in lines
            if result.flags & FLAG_ALIVE
        )

    def _apply_result(self, row: CachedRow, result: RoundResult, up_to_date: bool) -> RowResult:
        known = len(row.tokens)
        if not result.flags & FLAG_HAS_PAGES:
            raise ProtocolError(
                f"row {row.id} has no page for position {known + result.drafted - 1}"
            )
        if not result.flags & FLAG_FINITE:
            row.done = True
            return RowResult(row.id, (), (), result.drafted, 0, End.ERROR)
        row.cached = known + result.accepted
        if up_to_date and self._drafter is not None and known <= self._drafter.max_length:
            row.draft_cached = known + max(0, min(result.accepted, result.drafted - 1))
        return self._emit(row, result)

    def _emit(self, row: CachedRow, result: RoundResult) -> RowResult:
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
            draft_cached=row.draft_cached if self._keeps_cache else row.cached,
            drafter=self._drafter.name if self._drafter and result.drafted else "",
        )

    def _unsupported_feature(self, task: RowTask) -> str | None:
        """Why `task` needs the host. The answer must not depend on what has finished so far."""
        row = task.row
        option = unsupported_option(row.sampling, row.report)
        obstacles = {
            "a prefill": task.prefill > 0,
            "a row of one token": len(row.tokens) < 2,
            "a grammar": row.matcher is not None,
            "an adapter": row.adapter is not None,
            f"`{option}`": option is not None,
            "a draft that has fallen behind": task.draft > 0 and self._draft_lag(row) > 0,
        }
        return next((name for name, met in obstacles.items() if met), None)

    def _draft_lag(self, row: CachedRow) -> int:
        """An upper bound for the tokens that the draft lacks beyond those that a round feeds."""
        if not self._keeps_cache:
            return 0
        entry = self._table.find(row)
        if entry is not None:
            return entry.draft_lag
        known = len(row.tokens)
        if self._drafter is None or known > self._drafter.max_length:
            return 0  # it will not draft here, so there is nothing to catch up for
        return known - row.draft_cached - NORMAL_LAG
