"""How the rows of a Step become one forward's input, packed side by side without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shard.attention.interface import Paged, Segment
from shard.attention.kv_cache import KvCache, slot, spans
from shard.batch.rows import Row
from shard.wire.protocol import ProtocolError


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens of one row that a forward takes in, the first of them at position `start`."""

    row: Row
    start: int
    tokens: Sequence[int]
    logits: int
    """For how many of the last tokens logits are wanted."""


@dataclass(frozen=True, slots=True)
class Packed:
    """One forward's input: [1, T] ids and positions, the layout, and the positions of logits."""

    ids: Tensor
    positions: Tensor
    layout: Paged
    wanted: Tensor


def pack(feeds: Sequence[Feed], cache: KvCache, device: torch.device) -> Packed:
    """Lay `feeds` side by side. Raises ProtocolError if a row lacks pages for its tokens."""
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    wanted: list[int] = []
    segments: list[Segment] = []
    for feed in feeds:
        start, stop = len(ids), len(ids) + len(feed.tokens)
        reach = range(feed.start, feed.start + len(feed.tokens))
        ids.extend(feed.tokens)
        positions.extend(reach)
        slots.extend(_slots(feed.row, reach))
        segments.append(Segment(start, stop, reach.stop, spans(feed.row.pages, reach.stop)))
        wanted.extend(range(stop - feed.logits, stop))
    numbers = torch.tensor([*ids, *positions, *slots, *wanted], device=device)  # one upload
    count = len(ids)
    token_ids, places, targets, rest = torch.split(numbers, [count, count, count, len(wanted)])
    return Packed(token_ids[None], places[None], Paged(cache, targets, segments), rest)


def _slots(row: Row, reach: range) -> list[int]:
    try:
        return [slot(row.pages, position) for position in reach]
    except IndexError as fault:
        raise ProtocolError(f"row {row.id} has no page for position {reach.stop - 1}") from fault
