"""How the rows of a Step become one forward's input, packed side by side without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shard.attention.interface import PagedLayout, Segment
from shard.attention.kv_cache import KvCache, slot_index, slot_spans
from shard.batch.rows import CachedRow
from shard.wire.protocol import ProtocolError


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Tokens of one row that a forward takes in, the first of them at position `start`."""

    row: CachedRow
    start: int
    tokens: Sequence[int]
    logit_count: int
    """For how many of the last tokens logits are wanted."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One forward's input: [1, T] ids and positions, the layout, and the positions of logits."""

    ids: Tensor
    positions: Tensor
    layout: PagedLayout
    logit_indices: Tensor


def pack_spans(feeds: Sequence[TokenSpan], cache: KvCache, device: torch.device) -> PackedBatch:
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
        segments.append(Segment(start, stop, reach.stop, slot_spans(feed.row.pages, reach.stop)))
        wanted.extend(range(stop - feed.logit_count, stop))
    numbers = torch.tensor([*ids, *positions, *slots, *wanted], device=device)  # one upload
    count = len(ids)
    token_ids, places, targets, rest = torch.split(numbers, [count, count, count, len(wanted)])
    return PackedBatch(token_ids[None], places[None], PagedLayout(cache, targets, segments), rest)


def _slots(row: CachedRow, positions: range) -> list[int]:
    try:
        return [slot_index(row.pages, position) for position in positions]
    except IndexError as fault:
        raise ProtocolError(
            f"row {row.id} has no page for position {positions.stop - 1}"
        ) from fault
