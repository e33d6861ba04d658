"""A Step's rows, done by one of two rounds: the host's, or one that stays where the models run.

`Rounds.refusal` is the one rule that chooses, by name and from Steps alone, so that all ranks
choose alike. The host's round (`speculative`) does everything and is done when it returns. A
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
from shard.batch.rows import Row
from shard.model.packed_model import PackedModel
from shard.rounds.device_round import PAGED, RAN, SOUND, Resident, Told, told
from shard.rounds.device_rows import DeviceRows, kind, upload
from shard.rounds.drafters import ORDINARY, Drafter, ModelDrafter
from shard.rounds.host_round import Work
from shard.rounds.round_graphs import RoundGraphs
from shard.step_handle import Pending
from shard.wire.protocol import End, Item, ProtocolError

_SPARE = 2
"""Times the rows of a Step: how many the device's table holds, with those kept in place."""


class Landing:
    """A result on its way to the host, which need not wait for it."""

    def __init__(self, result: Tensor) -> None:
        """On CUDA the copy goes to pinned memory, behind the round itself, and then an event."""
        cuda = result.is_cuda
        self._here = torch.empty(result.shape, dtype=result.dtype, pin_memory=cuda)
        self._here.copy_(result, non_blocking=cuda)
        self._event: Any = torch.cuda.Event() if cuda else None  # type: ignore[no-untyped-call]
        if self._event is not None:
            self._event.record()

    def landed(self) -> bool:
        """Whether it is here."""
        return self._event is None or bool(self._event.query())

    def wait(self) -> list[Told]:
        """What it says, once it is here."""
        if self._event is not None:
            self._event.synchronize()
        return told(self._here)


@dataclass(frozen=True, slots=True)
class Launched:
    """A resident round."""

    rounds: ResidentRounds
    rows: Sequence[Row]
    rode: Sequence[bool]
    """Whether the draft's cache took in the newest tokens of each row."""
    landing: Landing

    def landed(self) -> bool:
        """See `Pending`."""
        return self.landing.landed()

    def items(self) -> tuple[Item, ...]:
        """See `Pending`. Raises ProtocolError if a row lacked pages."""
        lines = zip(self.rows, self.landing.wait(), self.rode, strict=True)
        items = [self.rounds.item(row, line, rides) for row, line, rides in lines]
        return tuple(item for item in items if item is not None)


class ResidentRounds:
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
        self._slots = _SPARE * rows
        pages = -(-length // PAGE_SIZE)
        self._table = DeviceRows(self._slots, pages, target.facts.vocab_size, self._device)
        resident = Resident(target, self._drafter, self._table)
        self._run: RoundGraphs | Callable[..., Tensor] = resident.round
        if target.records:
            most = drafts if self._drafter is not None else 0
            self._run = RoundGraphs(resident, rows, most, self._device)

    def refusal(self, works: Sequence[Work]) -> str | None:
        """What the host's round is needed for, if it is."""
        if len(works) > self._slots:
            return "more rows than the device's table holds"
        if self._drafter is None and any(work.draft for work in works):
            return "drafts that are not a model's"
        return next(filter(None, map(self._obstacle, works)), None)

    def launch(self, works: Sequence[Work], settle: Callable[[], None]) -> Pending:
        """Start the round of `works`; `settle` lets all others land, if room is needed.

        Raises ProtocolError for a row that cannot decode.
        """
        rows = [work.row for work in works]
        if not self._table.holds(rows):
            settle()
            self._table.keep(row.id for row in rows)
        drafts = max(work.draft for work in works)
        gaps = [self._gap(row) for row in rows]
        entries = self._table.enter(rows)
        most = max(kind(row.sampling) for row in rows)
        asked = [work.draft if gap <= 0 else -1 for work, gap in zip(works, gaps, strict=True)]
        numbers = [[entry.slot for entry in entries], asked]
        reach = max(1, *(entry.pages for entry in entries))
        with torch.inference_mode():
            slots = upload(numbers, torch.int64, self._device)
            landing = Landing(self._run(slots, drafts, most, reach))
        rode = [drafts > 0 and gap <= 0 for gap in gaps]
        for entry, gap, rides in zip(entries, gaps, rode, strict=True):
            entry.gap = 0 if rides else gap + 1
        return Launched(self, rows, rode, landing)

    def outdate(self, works: Sequence[Work]) -> None:
        """The host's round did `works`."""
        self._table.outdate(work.row for work in works)

    def forget(self, ids: Sequence[int]) -> None:
        """Rows that are released."""
        self._table.drop(ids)

    def clear(self) -> None:
        """Forget every row."""
        self._table.keep(())

    def item(self, row: Row, line: Told, rode: bool) -> Item | None:
        """Move the host's `row` on as the device's has moved; None if it had ended before.

        Raises ProtocolError if the row lacked pages for its tokens.
        """
        if not line.flags & RAN:
            return None
        known = len(row.tokens)
        if not line.flags & PAGED:
            raise ProtocolError(f"row {row.id} has no page for position {known + line.drafted - 1}")
        if not line.flags & SOUND:
            row.done = True
            return Item(row.id, (), (), line.drafted, 0, End.ERROR)
        row.cached = known + line.accepted
        if rode and self._drafter is not None and known <= self._drafter.model.facts.max_length:
            row.draft_cached = known + max(0, min(line.accepted, line.drafted - 1))
        kept, end = row.append(line.tokens[: line.accepted + 1], self._eos)
        if len(row.tokens) != line.known:
            raise RuntimeError(f"row {row.id} has {line.known} tokens on the device")
        return Item(
            id=row.id,
            tokens=tuple(kept),
            logprobs=tuple(line.logprobs[: len(kept)]),
            drafted=line.drafted,
            accepted=min(line.accepted, len(kept)),
            end=end,
            draft_cached=row.cached if self._drafter is None else row.draft_cached,
        )

    def _obstacle(self, work: Work) -> str | None:
        """Why `work` must be the host's. Nothing here may depend on what has landed."""
        row, given = work.row, work.row.sampling
        obstacles = {
            "a prefill": work.prefill > 0,
            "a row of one token": len(row.tokens) < 2,
            "a grammar": row.matcher is not None,
            "a list of the likeliest tokens": row.report.top_n > 0,
            "a watermark": given.watermark,
            "a bias": bool(given.bias),
            "a repetition penalty": given.repetition_penalty != 1,
            "a frequency penalty": given.frequency_penalty != 0,
            "a presence penalty": given.presence_penalty != 0,
            "a draft that has fallen behind": work.draft > 0 and self._gap(row) > 0,
        }
        return next((name for name, met in obstacles.items() if met), None)

    def _gap(self, row: Row) -> int:
        """At most so many tokens does the draft lack beyond those that a round feeds anyway."""
        entry = self._table.find(row)
        if entry is not None:
            return entry.gap
        known = len(row.tokens)
        if self._drafter is None or known > self._drafter.model.facts.max_length:
            return 0  # there is nothing to be done about it
        return known - row.draft_cached - ORDINARY
