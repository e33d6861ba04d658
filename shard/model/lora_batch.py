"""Which slots of adapters the tokens of one forward use.

A slot holds the matrices of one adapter, next to those of other slots, so that one product serves
every adapter of a decoding step: each token is multiplied by the matrices of all slots between the
first and the last that are in use, and what it is not meant for is set to zero. For many tokens
that would be most of the work, so each run of tokens is then multiplied by its own slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from shard.batch.packing import TokenSpan

MAX_SHARED_TOKENS = 64
"""Tokens of a forward up to which all slots in use are multiplied at once."""


MAX_SPREAD = 2
"""Slots between the first and the last in use, per slot in use, up to which that is done."""


@dataclass(frozen=True, slots=True)
class SlotRun:
    """Tokens `start` to `stop` of a forward, which use the slots `first` to `last`, exclusive."""

    start: int
    stop: int
    first: int
    last: int
    foreign: Tensor | None = None
    """[tokens, slots, 1], true where a token does not use a slot; None where each uses all."""


def slot_runs(
    spans: Sequence[TokenSpan], slots: Mapping[int, int], device: torch.device
) -> tuple[SlotRun, ...]:
    """The runs of `spans`; tokens without an adapter are in none, or masked."""
    used = [None if span.row.adapter is None else slots[span.row.adapter.number] for span in spans]
    counts = [len(span.tokens) for span in spans]
    present = {slot for slot in used if slot is not None}
    if len(present) == 1 and None not in used:
        [slot] = present
        return (SlotRun(0, sum(counts), slot, slot + 1),)
    first, last = min(present), max(present) + 1
    if sum(counts) > MAX_SHARED_TOKENS or last - first > MAX_SPREAD * len(present):
        return tuple(_separate_runs(used, counts))
    own = [-1 if slot is None else slot for slot in used]
    by_token = torch.tensor(own).repeat_interleave(torch.tensor(counts))
    foreign = by_token[:, None] != torch.arange(first, last)
    return (SlotRun(0, sum(counts), first, last, foreign[:, :, None].to(device)),)


def _separate_runs(used: Sequence[int | None], counts: Sequence[int]) -> list[SlotRun]:
    """One run for all neighbors with the same slot."""
    runs, start = [], 0
    for slot, group in groupby(zip(used, counts, strict=True), lambda pair: pair[0]):
        stop = start + sum(count for _, count in group)
        if slot is not None:
            runs.append(SlotRun(start, stop, slot, slot + 1))
        start = stop
    return runs
