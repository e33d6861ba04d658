"""How the rows of a Step attend on the host: segment by segment, or short ones together.

It knows rows only as segments, and plans once what all layers of one kind share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from shard import progress
from shard.attention.kv_cache import KvCache
from shard.attention.sdpa_padded import PaddedRows, Segment, fits_padded_batch
from shard.attention.sdpa_row import AttentionParams, attend_row, attend_spans, causal_mask
from shard.attention.visibility import EVERY_KEY, Visibility

_SEPARATE_SPAN_TOKENS = 512
"""Average length of the spans from which attending to each costs less than copying them."""


@dataclass(frozen=True, slots=True)
class SegmentView:
    """What the tokens `start:stop` of a packed Step see: the slots in `spans`, under `mask`.

    `mask` is additive, with a row per folded query row (see `sdpa_row`), or None if a single token
    sees everything.
    """

    start: int
    stop: int
    spans: tuple[slice, ...]
    mask: Tensor | None
    separate: bool
    """Whether the spans are attended to one by one instead of being copied together."""


class PagedLayout:
    """The layout of a real Step: write to `cache` at `slots` [T], attend segment by segment.

    Short segments attend together, padded. What a segment sees is the same in all layers of one
    kind, so it is computed once.
    """

    def __init__(self, cache: KvCache, slots: Tensor, segments: Sequence[Segment]) -> None:
        self.cache = cache
        self.slots = slots
        self.segments = segments
        self._plans: dict[
            tuple[Visibility, int, bool], tuple[list[SegmentView], PaddedRows | None]
        ] = {}
        self._recent_slots: dict[int, Tensor] = {}

    def attend_layer(
        self, index: int, new_kv: Tensor, query: Tensor, params: AttentionParams
    ) -> Tensor:
        """See `Layout`."""
        progress.advance()
        self.cache.write(index, self.slots, new_kv)
        return self.attend(index, query, params, 2 * query.shape[1] // new_kv.shape[1])

    def recall_layer(self, index: int, new_values: Tensor, count: int) -> Tensor:
        """See `Layout`."""
        progress.advance()
        self.cache.write(index, self.slots, new_values)
        return self.cache.read_slots(index, self.recent_slots(count))

    def recent_slots(self, count: int) -> Tensor:
        """Slots of the last `count` positions of each token, int64 [T, count]; -1: none."""
        if count not in self._recent_slots:
            rows = [_recent_slots(part, count) for part in self.segments]
            self._recent_slots[count] = torch.cat(rows).to(self.slots.device)
        return self._recent_slots[count]

    def attend(self, index: int, query: Tensor, params: AttentionParams, group: int) -> Tensor:
        """Attend `query` [T, heads, D], `group` heads to a key head, to what is stored."""
        kind = params.visibility, group, params.is_plain
        if kind not in self._plans:
            self._plans[kind] = self._plan(index, query, *kind)
        views, padded = self._plans[kind]
        if padded is None and len(views) == 1:
            return self._attend_view(index, query, views[0], params)
        out = torch.empty_like(query)
        for view in views:
            tokens = slice(view.start, view.stop)
            out[tokens] = self._attend_view(index, query[tokens], view, params)
        if padded is not None:
            padded.attend(query, self.cache.pool(index), params.scale, out)
        return out

    def _plan(
        self, index: int, query: Tensor, visibility: Visibility, group: int, plain: bool
    ) -> tuple[list[SegmentView], PaddedRows | None]:
        """The segments that attend alone, and the padded rows: on the CPU, if more than one."""
        pool = self.cache.pool(index)
        slot_bytes = pool[0].numel() * pool.itemsize
        short = [part for part in self.segments if fits_padded_batch(part, slot_bytes)]
        if not plain or query.device.type != "cpu" or len(short) < 2:
            return [_segment_view(part, visibility, group, query) for part in self.segments], None
        alone = [part for part in self.segments if not fits_padded_batch(part, slot_bytes)]
        views = [_segment_view(part, visibility, group, query) for part in alone]
        return views, PaddedRows.from_segments(short, visibility, group, query)

    def _attend_view(
        self, index: int, query: Tensor, view: SegmentView, params: AttentionParams
    ) -> Tensor:
        progress.advance()
        if view.separate and params.is_plain:
            pieces = [self.cache.read(index, (span,)) for span in view.spans]
            return attend_spans(query, pieces, view.mask, params)
        keys, values = self.cache.read(index, view.spans)
        return attend_row(query, keys, values, view.mask, params)


def _segment_view(
    segment: Segment, visibility: Visibility, group: int, like: Tensor
) -> SegmentView:
    """What `segment` sees, without slots that none of its tokens sees."""
    count = segment.stop - segment.start
    length = segment.length - visibility.first_key(segment.length - count)
    mask = None if count == 1 else causal_mask(count, length, visibility, group, like)
    spans = _last_slots(segment.spans, length)
    separate = _worth_separating(spans, count, visibility, like)
    return SegmentView(segment.start, segment.stop, spans, mask, separate)


def _worth_separating(
    spans: tuple[slice, ...], count: int, visibility: Visibility, like: Tensor
) -> bool:
    """Whether the spans are long and each of the `count` tokens sees a key in all of them."""
    last, length = spans[-1], sum(span.stop - span.start for span in spans)
    seen = visibility == EVERY_KEY and last.stop - last.start >= count
    return (
        like.device.type == "cpu"
        and seen
        and len(spans) > 1
        and length >= _SEPARATE_SPAN_TOKENS * len(spans)
    )


def _recent_slots(segment: Segment, count: int) -> Tensor:
    """The slots of the last `count` positions of each token of `segment`, int64 [n, count]."""
    needed = segment.count + count - 1
    spans = _last_slots(segment.spans, min(needed, segment.length))
    slots = torch.cat([torch.arange(span.start, span.stop) for span in spans])
    return pad(slots, (needed - len(slots), 0), value=-1).unfold(0, count, 1)


def _last_slots(spans: tuple[slice, ...], length: int) -> tuple[slice, ...]:
    """The last `length` slots of `spans`."""
    kept: list[slice] = []
    for span in reversed(spans):
        start = max(span.start, span.stop - length)
        kept.append(slice(start, span.stop))
        length -= span.stop - start
        if not length:
            break
    return tuple(reversed(kept))
