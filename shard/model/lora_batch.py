"""Which slots of adapters the tokens of one forward use.

A slot holds the matrices of one adapter, next to those of other slots, so that one batched product
serves every adapter of a decoding Step: the tokens are grouped by slot, and short groups are padded
with tokens whose results are dropped. Where that would be mostly padding, as in a long prefill next
to decoding rows, each run of tokens is multiplied by its own slot instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from shard.batch.packing import TokenSpan

MAX_PADDING = 4
"""Places of the batched product, per token with an adapter, up to which it is used."""


@dataclass(frozen=True, slots=True)
class SlotRun:
    """Tokens `start` to `stop` of a forward, which use one slot."""

    start: int
    stop: int
    slot: int


@dataclass(frozen=True, slots=True)
class SlotGroups:
    """Tokens of a forward, as many places for each of the slots `first` to `last`, exclusive."""

    first: int
    last: int
    index: Tensor | None
    """The token at each place; None where each place has its own, in order."""
    tokens: Tensor
    """The tokens that use a slot."""
    places: Tensor | None
    """Their places; None if no place is padding."""


@dataclass(frozen=True, slots=True)
class SlotUse:
    """How the tokens of a forward use slots: by groups, or else by runs."""

    groups: SlotGroups | None = None
    runs: tuple[SlotRun, ...] = ()


def slot_use(spans: Sequence[TokenSpan], slots: Mapping[int, int], device: torch.device) -> SlotUse:
    """How `spans`, of which some have an adapter, use `slots`."""
    used = [None if span.row.adapter is None else slots[span.row.adapter.number] for span in spans]
    counts = [len(span.tokens) for span in spans]
    if len(set(used)) > 1:
        groups = _groups(used, counts, device)
        if groups is not None:
            return SlotUse(groups)
    return SlotUse(runs=tuple(_separate_runs(used, counts)))


def _groups(
    used: Sequence[int | None], counts: Sequence[int], device: torch.device
) -> SlotGroups | None:
    """Tokens by slot; None if most of it would be padding."""
    by_token = [slot for slot, count in zip(used, counts, strict=True) for _ in range(count)]
    own: dict[int, list[int]] = {}
    for token, slot in enumerate(by_token):
        if slot is not None:
            own.setdefault(slot, []).append(token)
    first, last = min(own), max(own) + 1
    size = max(map(len, own.values()))
    tokens = [token for group in own.values() for token in group]
    if (last - first) * size > MAX_PADDING * len(tokens):
        return None
    index = [0] * ((last - first) * size)
    places = [(slot - first) * size + at for slot, group in own.items() for at in range(len(group))]
    for place, token in zip(places, tokens, strict=True):
        index[place] = token
    padded = len(places) < len(index)
    in_order = not padded and index == list(range(len(by_token)))
    if not padded:
        tokens = index
    return SlotGroups(
        first,
        last,
        None if in_order else torch.tensor(index, device=device),
        torch.tensor(tokens, device=device),
        torch.tensor(places, device=device) if padded else None,
    )


def _separate_runs(used: Sequence[int | None], counts: Sequence[int]) -> list[SlotRun]:
    """One run for all neighbors with the same slot."""
    runs, start = [], 0
    for slot, group in groupby(zip(used, counts, strict=True), lambda pair: pair[0]):
        stop = start + sum(count for _, count in group)
        if slot is not None:
            runs.append(SlotRun(start, stop, slot))
        start = stop
    return runs
