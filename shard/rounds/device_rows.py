"""The row table on the device: what a device round reads and updates by itself.

A row gets a slot when it first runs in such a round, and gives it back when it is released. Between
two rounds only new rows and new pages are uploaded. A row that the host has updated in between is
stale, and is written again before its next round. Slot 0 is the padding of a recorded round, as
page 0 is that of the pool, and is never alive.

`ON_DEVICE` is the list of what a device round implements: a row with any other option runs on the
host.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shard.batch.rows import CachedRow
from shard.sampling.sampler import as_int64, mix64
from shard.sampling.warpers import bounded_temperature
from shard.wire.protocol import ProtocolError, ReportOptions, Sampling

ON_DEVICE = frozenset(
    {
        *("seed", "temperature", "top_k", "top_p", "typical_p", "min_p", "min_new_tokens"),
        *("raw_logprobs", "prompt_logprobs"),
    }
)
"""Fields of `Sampling` and of `ReportOptions` that a device round implements; any other one must
be neutral. The log-probabilities of the prompt come from prefills, which no device round does."""


def _neutral_values(
    options: type[Sampling | ReportOptions], others: Collection[str]
) -> tuple[tuple[str, Any], ...]:
    """Names and neutral values of the fields of `options`, except `others`."""
    return tuple((each.name, each.default) for each in fields(options) if each.name not in others)


_HOST_SAMPLING = _neutral_values(Sampling, ON_DEVICE)
_HOST_REPORT = _neutral_values(ReportOptions, ON_DEVICE)
"""What a device round does not implement."""


def unsupported_option(sampling: Sampling, report: ReportOptions) -> str | None:
    """The first field that is neither neutral nor implemented on the device, or None."""
    changed = (*_changed_fields(sampling, _HOST_SAMPLING), *_changed_fields(report, _HOST_REPORT))
    return next(iter(changed), None)


def _changed_fields(
    options: Sampling | ReportOptions, neutral: Iterable[tuple[str, Any]]
) -> Iterator[str]:
    return (name for name, value in neutral if getattr(options, name) != value)


class SamplingKind(IntEnum):
    """How much of the sampling a round computes: as much as its most demanding row needs."""

    GREEDY = 0
    SAMPLED = 1
    """Temperature and noise."""
    FILTERED = 2
    """Everything that is implemented on the device."""


_WARPERS = ("top_k", "top_p", "typical_p", "min_p")
"""Fields that have no effect on a greedy row."""
_SAMPLED_FILTERS = _neutral_values(Sampling, ("seed", "temperature"))
_GREEDY_FILTERS = _neutral_values(Sampling, ("seed", "temperature", *_WARPERS))
"""The fields that a round of the kind FILTERED implements."""


def sampling_kind(sampling: Sampling) -> SamplingKind:
    """The least kind of round that `sampling` needs."""
    filters = _SAMPLED_FILTERS if sampling.temperature else _GREEDY_FILTERS
    if any(_changed_fields(sampling, filters)):
        return SamplingKind.FILTERED
    return SamplingKind.SAMPLED if sampling.temperature else SamplingKind.GREEDY


def _effective(sampling: Sampling) -> Sampling:
    """`sampling` with neutral warpers if it is greedy."""
    if sampling.temperature:
        return sampling
    return replace(sampling, top_k=0, top_p=1.0, typical_p=1.0, min_p=0.0)


class DeviceRowState(NamedTuple):
    """What a round updates, int64 [B] each, in the order of the table's first columns."""

    previous_token: Tensor
    """The last token but one."""
    last_token: Tensor
    token_count: Tensor
    """Number of the row's tokens."""
    alive: Tensor
    """0 once the row has ended, and for padding."""


class DeviceRowParams(NamedTuple):
    """What a round only reads, [B] each: int64 up to `top_k`, then float32."""

    max_tokens: Tensor
    """Number of tokens at which the row ends."""
    stops_at_eos: Tensor
    """Whether an end-of-sequence token ends the row."""
    first_eos_position: Tensor
    """The first position at which such a token is allowed."""
    noise_key: Tensor
    """The mixed seed."""
    sampled: Tensor
    """0 for a greedy row."""
    raw_logprobs: Tensor
    """Whether log-probabilities are the model's own."""
    top_k: Tensor
    temperature: Tensor
    top_p: Tensor
    typical_p: Tensor
    min_p: Tensor

    def repeated(self, times: int) -> DeviceRowParams:
        """The parameters of `times` positions of every row, [B * times] each."""
        return DeviceRowParams(*(column.repeat_interleave(times) for column in self))

    def select(self, rows: slice) -> DeviceRowParams:
        """The parameters of some of the rows."""
        return DeviceRowParams(*(column[rows] for column in self))


_FLOAT_PARAMS = DeviceRowParams._fields[DeviceRowParams._fields.index("temperature") :]
"""Names of the float columns, which are fields of `Sampling`."""
_STATE_COLUMNS = len(DeviceRowState._fields)
_INT_COLUMNS = _STATE_COLUMNS + len(DeviceRowParams._fields) - len(_FLOAT_PARAMS)


@dataclass(slots=True)
class TableEntry:
    """A row in the table."""

    slot: int
    row: CachedRow
    page_count: int = 0
    """Number of the row's pages that are in the table."""
    stale: bool = True
    """Whether the host has updated the row since it was written."""
    draft_lag: int = 0
    """Upper bound of the tokens that the draft's cache lacks, beyond those that a round feeds."""


class DeviceRowTable:
    """A table of up to `slots` rows of up to `pages` pages each."""

    def __init__(self, slots: int, pages: int, vocabulary: int, device: torch.device) -> None:
        self._vocabulary, self._device = vocabulary, device
        self._entries: dict[int, TableEntry] = {}
        self._free = list(range(slots, 0, -1))
        self._ints = torch.zeros(slots + 1, _INT_COLUMNS, dtype=torch.int64, device=device)
        self._ints[:, -1] = 1  # padding is sampled too and needs a valid top-k
        floats = (slots + 1, len(_FLOAT_PARAMS))
        self._floats = torch.ones(floats, dtype=torch.float32, device=device)
        self.pages = torch.zeros(slots + 1, pages + 1, dtype=torch.int32, device=device)
        """Page ids by slot; page 0, the padding, where there is none. The last column is all 0."""

    def __len__(self) -> int:
        return len(self._entries)

    def can_hold(self, rows: Sequence[CachedRow]) -> bool:
        """Whether every row of `rows` has a slot or can get one."""
        return sum(row.id not in self._entries for row in rows) <= len(self._free)

    def find(self, row: CachedRow) -> TableEntry | None:
        """The entry of `row`, if it has one that is up to date."""
        entry = self._entries.get(row.id)
        return None if entry is None or entry.stale else entry

    def ensure_rows(self, rows: Sequence[CachedRow]) -> list[TableEntry]:
        """The entries of `rows`; new and stale ones are written, and all their pages.

        Raises ProtocolError for a row that cannot decode.
        """
        entries = [self._entries.get(row.id) or self._add(row) for row in rows]
        stale = [entry for entry in entries if entry.stale]
        if stale:
            self._write(stale)
        self._write_new_pages(entries)
        return entries

    def mark_stale(self, rows: Iterable[CachedRow]) -> None:
        """Note that the host has updated `rows`."""
        for row in rows:
            if row.id in self._entries:
                self._entries[row.id].stale = True

    def remove(self, ids: Iterable[int]) -> None:
        """Free the slots of those rows that have one."""
        for id in ids:
            entry = self._entries.pop(id, None)
            if entry is not None:
                self._free.append(entry.slot)

    def keep_only(self, ids: Iterable[int]) -> None:
        """Free all slots but those of `ids`."""
        self.remove(self._entries.keys() - set(ids))

    def read(self, slots: Tensor) -> tuple[DeviceRowState, DeviceRowParams]:
        """State and parameters of the rows at `slots` [B]."""
        ints, floats = self._ints[slots].unbind(1), self._floats[slots].unbind(1)
        return DeviceRowState(*ints[:_STATE_COLUMNS]), DeviceRowParams(
            *ints[_STATE_COLUMNS:], *floats
        )

    def write(self, slots: Tensor, state: DeviceRowState) -> None:
        """Set the state of the rows at `slots` [B]."""
        self._ints[:, :_STATE_COLUMNS].index_copy_(0, slots, torch.stack(state, 1))

    def _add(self, row: CachedRow) -> TableEntry:
        slot = self._free.pop()
        entry = self._entries[row.id] = TableEntry(slot, row)
        return entry

    def _write(self, entries: Sequence[TableEntry]) -> None:
        for entry in entries:
            row = entry.row
            if not row.done and row.cached != len(row.tokens) - 1:
                raise ProtocolError(f"row {row.id} cannot decode: its prefill is not finished")
            entry.stale, entry.page_count = False, 0
        slots = upload([entry.slot for entry in entries], torch.int64, self._device)
        self.pages.index_fill_(0, slots, 0)  # the pages of the slot's previous row
        ints = [self._encode_ints(entry.row) for entry in entries]
        self._ints.index_copy_(0, slots, upload(ints, torch.int64, self._device))
        floats = [_encode_floats(entry.row.sampling) for entry in entries]
        self._floats.index_copy_(0, slots, upload(floats, torch.float32, self._device))

    def _encode_ints(self, row: CachedRow) -> list[int]:
        """The row's state and its integer parameters, in the order of the columns."""
        sampling, count = _effective(row.sampling), len(row.tokens)
        state = [*row.tokens[-2:], count, not row.done]
        return [
            *state,
            row.prompt_length + row.max_new_tokens,
            not row.ignore_eos,
            row.prompt_length + sampling.min_new_tokens,
            as_int64(mix64(sampling.seed)),
            sampling.temperature > 0,
            row.report.raw_logprobs,
            min(sampling.top_k or self._vocabulary, self._vocabulary),
        ]

    def _write_new_pages(self, entries: Sequence[TableEntry]) -> None:
        """Write the pages that the rows of `entries` have gained."""
        gained: list[tuple[int, int, int]] = []
        for entry in entries:
            pages = entry.row.pages
            gained += ((entry.slot, at, pages[at]) for at in range(entry.page_count, len(pages)))
            entry.page_count = len(pages)
        if gained:
            slots, columns, ids = upload(gained, torch.int64, self._device).unbind(1)
            self.pages[slots, columns] = ids.int()


def _encode_floats(sampling: Sampling) -> list[float]:
    """The float parameters in the order of the columns; a greedy row has neutral ones."""
    temperature = bounded_temperature(sampling.temperature or 1.0)
    effective = replace(_effective(sampling), temperature=temperature)
    return [getattr(effective, name) for name in _FLOAT_PARAMS]


def upload(values: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`values` on `device`; the host does not wait for the copy."""
    local = torch.tensor(values, dtype=dtype)
    return local if device.type == "cpu" else local.pin_memory().to(device, non_blocking=True)
