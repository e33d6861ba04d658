"""The row table where the models run: what a resident round reads and moves on by itself.

A row takes a slot when it first runs in such a round and gives it back when it is released.
Between two rounds nothing is uploaded but new rows and new pages. A row that the host has moved
on meanwhile is outdated and is written again before its next round. Slot 0 belongs to nobody: it
is the padding of a recorded round, as page 0 is of the pool, and is never alive.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from shard.batch.rows import CachedRow
from shard.sampling.sampler import as_int64, mix64
from shard.wire.protocol import ProtocolError, Sampling


class SamplingKind(IntEnum):
    """How much a row's sampling asks of a round; a round does what its most demanding row asks."""

    GREEDY = 0
    SAMPLED = 1
    """Temperature and noise."""
    FILTERED = 2
    """Whatever else can be said in tensors."""


@lru_cache(maxsize=4096)
def sampling_kind(sampling: Sampling) -> SamplingKind:
    """What `given` asks of a round."""
    cut = sampling.top_k or sampling.top_p != 1 or sampling.typical_p != 1 or sampling.min_p
    if sampling.min_new_tokens or (sampling.temperature and cut):
        return SamplingKind.FILTERED
    return SamplingKind.SAMPLED if sampling.temperature else SamplingKind.GREEDY


class DeviceRowState(NamedTuple):
    """What a round changes, int64 [B] each; its order is that of the table's first columns."""

    previous_token: Tensor
    last_token: Tensor
    """The newest two tokens."""
    token_count: Tensor
    """How many tokens the row has."""
    alive: Tensor
    """0 once it has ended, and for padding."""


class DeviceRowParams(NamedTuple):
    """What a round only reads, [B] each, int64 and then float32."""

    max_tokens: Tensor
    """The row ends with so many tokens."""
    stops_at_eos: Tensor
    """Whether it ends with an end-of-sequence token."""
    first_eos_position: Tensor
    """The first position that such a token may have."""
    noise_key: Tensor
    """The seed, mixed once."""
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
        """The law of `times` positions of every row, [B * times] each."""
        return DeviceRowParams(*(column.repeat_interleave(times) for column in self))

    def select(self, rows: slice) -> DeviceRowParams:
        """The law of some of the rows."""
        return DeviceRowParams(*(column[rows] for column in self))


_STATE_COLUMNS, _INT_COLUMNS = len(DeviceRowState._fields), 11
"""Columns of integers: those of `DeviceRowState`, and with them those of `Law` up to `top_k`."""


@dataclass(slots=True)
class TableEntry:
    """A row in the table."""

    slot: int
    row: CachedRow
    page_count: int = 0
    """How many of the row's pages the table has."""
    stale: bool = True
    """Whether the host has moved the row on since."""
    draft_lag: int = 0
    """At most so many tokens does the draft's cache lack beyond what a round feeds anyway."""


class DeviceRowTable:
    """At most `slots` rows of up to `pages` pages each."""

    def __init__(self, slots: int, pages: int, vocabulary: int, device: torch.device) -> None:
        self._vocabulary, self._device = vocabulary, device
        self._entries: dict[int, TableEntry] = {}
        self._free = list(range(slots, 0, -1))
        self._ints = torch.zeros(slots + 1, _INT_COLUMNS, dtype=torch.int64, device=device)
        self._ints[:, -1] = 1  # padding is sampled too, so it needs a top-k that there can be
        self._floats = torch.ones(slots + 1, 4, dtype=torch.float32, device=device)
        self.pages = torch.zeros(slots + 1, pages + 1, dtype=torch.int32, device=device)
        """Page ids by slot; 0, the trash page, where there is none. The last column is all 0."""

    def __len__(self) -> int:
        return len(self._entries)

    def can_hold(self, rows: Sequence[CachedRow]) -> bool:
        """Whether all of `rows` are here or find a slot."""
        return sum(row.id not in self._entries for row in rows) <= len(self._free)

    def find(self, row: CachedRow) -> TableEntry | None:
        """The entry of `row`, if it is here and up to date."""
        entry = self._entries.get(row.id)
        return None if entry is None or entry.stale else entry

    def ensure_rows(self, rows: Sequence[CachedRow]) -> list[TableEntry]:
        """The entries of `rows`, written where they are new or outdated, with all their pages.

        Raises ProtocolError for a row that cannot decode.
        """
        entries = [self._entries.get(row.id) or self._add(row) for row in rows]
        stale = [entry for entry in entries if entry.stale]
        if stale:
            self._write(stale)
        self._write_new_pages(entries)
        return entries

    def mark_stale(self, rows: Iterable[CachedRow]) -> None:
        """The host has moved `rows` on."""
        for row in rows:
            if row.id in self._entries:
                self._entries[row.id].stale = True

    def remove(self, ids: Iterable[int]) -> None:
        """Give up the slots of rows that are here."""
        for id in ids:
            entry = self._entries.pop(id, None)
            if entry is not None:
                self._free.append(entry.slot)

    def keep_only(self, ids: Iterable[int]) -> None:
        """Give up all slots but those of `ids`."""
        self.remove(self._entries.keys() - set(ids))

    def read(self, slots: Tensor) -> tuple[DeviceRowState, DeviceRowParams]:
        """The rows at `slots` [B]."""
        ints, floats = self._ints[slots].unbind(1), self._floats[slots].unbind(1)
        return DeviceRowState(*ints[:_STATE_COLUMNS]), DeviceRowParams(
            *ints[_STATE_COLUMNS:], *floats
        )

    def write(self, slots: Tensor, state: DeviceRowState) -> None:
        """Move the rows at `slots` [B] on."""
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
        self.pages.index_fill_(0, slots, 0)  # those of whoever had the slot before
        ints = [self._encode_ints(entry.row) for entry in entries]
        self._ints.index_copy_(0, slots, upload(ints, torch.int64, self._device))
        floats = [_encode_floats(entry.row.sampling) for entry in entries]
        self._floats.index_copy_(0, slots, upload(floats, torch.float32, self._device))

    def _encode_ints(self, row: CachedRow) -> list[int]:
        given, known = row.sampling, len(row.tokens)
        state = [*row.tokens[-2:], known, not row.done]
        most = min(given.top_k or self._vocabulary, self._vocabulary)
        return [
            *state,
            *(
                row.prompt_length + row.max_new_tokens,
                not row.ignore_eos,
                row.prompt_length + given.min_new_tokens,
            ),
            *(as_int64(mix64(given.seed)), given.temperature > 0, row.report.raw_logprobs, most),
        ]

    def _write_new_pages(self, entries: Sequence[TableEntry]) -> None:
        """Write what pages the rows of `entries` have got."""
        fresh: list[tuple[int, int, int]] = []
        for entry in entries:
            own = entry.row.pages
            fresh += ((entry.slot, at, own[at]) for at in range(entry.page_count, len(own)))
            entry.page_count = len(own)
        if fresh:
            slots, places, pages = upload(fresh, torch.int64, self._device).unbind(1)
            self.pages[slots, places] = pages.int()


def _encode_floats(sampling: Sampling) -> list[float]:
    """Temperature, top-p, typical-p and min-p; neutral ones for a greedy row."""
    if not sampling.temperature:
        return [1.0, 1.0, 1.0, 0.0]
    return [sampling.temperature, sampling.top_p, sampling.typical_p, sampling.min_p]


def upload(values: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`values` on `device`; the host does not wait for what runs there."""
    here = torch.tensor(values, dtype=dtype)
    return here if device.type == "cpu" else here.pin_memory().to(device, non_blocking=True)
