"""How spans of rows become one forward's input, packed side by side without padding.

It knows tokens, positions and pages; no sampling, no Step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shard.attention.kv_cache import KvCache, slot_index, slot_spans
from shard.attention.paged_layout import PagedLayout
from shard.attention.sdpa_padded import Segment
from shard.batch.rows import CachedRow
from shard.wire.protocol import ProtocolError


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """Tokens of one row that a forward takes in, the first of them at position `start`."""

    row: CachedRow
    start: int
    tokens: Sequence[int]
    logit_count: int
    """Number of last tokens whose logits are wanted."""


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """One forward's input: [1, T] ids and positions, the layout, and the positions of logits."""

    ids: Tensor
    positions: Tensor
    layout: PagedLayout
    logit_indices: Tensor


def pack_spans(spans: Sequence[TokenSpan], cache: KvCache, device: torch.device) -> PackedBatch:
    """Pack `spans` side by side. Raises ProtocolError if a row lacks pages for its tokens."""
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    wanted: list[int] = []
    segments: list[Segment] = []
    for span in spans:
        start, stop = len(ids), len(ids) + len(span.tokens)
        covered = range(span.start, span.start + len(span.tokens))
        ids.extend(span.tokens)
        positions.extend(covered)
        slots.extend(_slots(span.row, covered))
        segments.append(
            Segment(start, stop, covered.stop, slot_spans(span.row.pages, covered.stop))
        )
        wanted.extend(range(stop - span.logit_count, stop))
    numbers = torch.tensor([*ids, *positions, *slots, *wanted], device=device)  # one upload
    count = len(ids)
    token_ids, at, targets, logit_indices = torch.split(numbers, [count, count, count, len(wanted)])
    layout = PagedLayout(cache, targets, segments)
    return PackedBatch(token_ids[None], at[None], layout, logit_indices)


def _slots(row: CachedRow, positions: range) -> list[int]:
    try:
        return [slot_index(row.pages, position) for position in positions]
    except IndexError as fault:
        raise ProtocolError(
            f"row {row.id} has no page for position {positions.stop - 1}"
        ) from fault
