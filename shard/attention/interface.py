"""Attention over the paged pool, registered with transformers as an attention implementation.

The model runs packed: all tokens of all rows of a Step in one sequence `[1, T]`, without a mask and
without transformers' cache. transformers calls `attend` once per layer, which stores the new keys
and values and lets every row attend to its own slots. The layout of the Step is passed through
`_layouts`, since not every model forwards unknown arguments. `attend` knows rows only as segments:
no request, no sampling, no draft.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from shard import progress
from shard.attention.kv_cache import KvCache, LayerShape
from shard.attention.sdpa_padded import PaddedRows, fits_padded_batch
from shard.attention.sdpa_padded import Segment as Segment
from shard.attention.sdpa_row import AttentionParams as AttentionParams
from shard.attention.sdpa_row import attend_row, attend_spans, causal_mask

IMPLEMENTATION = "paged_rows"
"""The name under which transformers finds `attend`."""
_SEPARATE_SPAN_TOKENS = 512
"""Average length of the spans from which attending to each costs less than copying them."""


class Layout(Protocol):
    """How one layer's tensors are attended to."""

    def attend_layer(
        self, index: int, new_kv: Tensor, query: Tensor, params: AttentionParams
    ) -> Tensor:
        """Store `new_kv` [T, 2 * KV heads, D], keys before values; attend `query` [T, heads, D].

        Returns [T, heads, D].
        """


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
            tuple[int | None, int, bool], tuple[list[SegmentView], PaddedRows | None]
        ] = {}

    def attend_layer(
        self, index: int, new_kv: Tensor, query: Tensor, params: AttentionParams
    ) -> Tensor:
        """See `Layout`."""
        progress.advance()
        self.cache.write(index, self.slots, new_kv)
        return self.attend(index, query, params, 2 * query.shape[1] // new_kv.shape[1])

    def attend(self, index: int, query: Tensor, params: AttentionParams, group: int) -> Tensor:
        """Attend `query` [T, heads, D], `group` heads to a key head, to what is stored."""
        kind = params.window, group, params.is_plain
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
        self, index: int, query: Tensor, window: int | None, group: int, plain: bool
    ) -> tuple[list[SegmentView], PaddedRows | None]:
        """The segments that attend alone, and the padded rows: on the CPU, if more than one."""
        pool = self.cache.pool(index)
        slot_bytes = pool[0].numel() * pool.itemsize
        short = [part for part in self.segments if fits_padded_batch(part, slot_bytes)]
        if not plain or query.device.type != "cpu" or len(short) < 2:
            return [_segment_view(part, window, group, query) for part in self.segments], None
        alone = [part for part in self.segments if not fits_padded_batch(part, slot_bytes)]
        views = [_segment_view(part, window, group, query) for part in alone]
        return views, PaddedRows.from_segments(short, window, group, query)

    def _attend_view(
        self, index: int, query: Tensor, view: SegmentView, params: AttentionParams
    ) -> Tensor:
        progress.advance()
        if view.separate and params.is_plain:
            pieces = [self.cache.read(index, (span,)) for span in view.spans]
            return attend_spans(query, pieces, view.mask, params)
        keys, values = self.cache.read(index, view.spans)
        return attend_row(query, keys, values, view.mask, params)


class AttentionProbe:
    """The layout of the first forward at load: records every layer's shape, caches nothing."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self.params: dict[int, AttentionParams] = {}
        self.group_sizes: dict[int, int] = {}
        """Query heads per key head."""

    def attend_layer(
        self, index: int, new_kv: Tensor, query: Tensor, params: AttentionParams
    ) -> Tensor:
        """Record shape and parameters of layer `index`."""
        self.shapes[index] = LayerShape(new_kv.shape[1] // 2, new_kv.shape[2])
        self.group_sizes[index] = 2 * query.shape[1] // new_kv.shape[1]
        self.params[index] = params
        return query


_layouts: list[Layout] = []


@contextmanager
def use_layout(layout: Layout) -> Iterator[None]:
    """Inside the block, models built with `IMPLEMENTATION` attend by `layout`."""
    _layouts.append(layout)
    try:
        yield
    finally:
        _layouts.pop()


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: [1, H, T, D] queries to [1, T, H, D].

    Raises ValueError if keys and values differ in size.
    """
    if key.shape != value.shape:
        raise ValueError(f"keys {tuple(key.shape)} and values {tuple(value.shape)} differ")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    params = AttentionParams(scale, sliding_window, softcap, s_aux)
    index = int(module.layer_idx)  # type: ignore[arg-type]
    new_kv = torch.cat((key[0], value[0])).transpose(0, 1)
    return _layouts[-1].attend_layer(index, new_kv, query[0].transpose(0, 1), params)[None], None


def _segment_view(segment: Segment, window: int | None, group: int, like: Tensor) -> SegmentView:
    """What `segment` sees, without slots before every token's window."""
    count = segment.stop - segment.start
    length = segment.length if window is None else min(segment.length, window + count - 1)
    mask = None if count == 1 else causal_mask(count, length, window, group, like)
    spans = _last_slots(segment.spans, length)
    return SegmentView(
        segment.start, segment.stop, spans, mask, _worth_separating(spans, count, window, like)
    )


def _worth_separating(
    spans: tuple[slice, ...], count: int, window: int | None, like: Tensor
) -> bool:
    """Whether the spans are long and each of the `count` tokens sees a key in all of them."""
    last, length = spans[-1], sum(span.stop - span.start for span in spans)
    seen = window is None and last.stop - last.start >= count
    return (
        like.device.type == "cpu"
        and seen
        and len(spans) > 1
        and length >= _SEPARATE_SPAN_TOKENS * len(spans)
    )


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


AttentionInterface.register(IMPLEMENTATION, attend)
# AttentionMaskInterface gets no entry, so transformers builds no mask. Nor does it look for packed
# rows in the positions, for which the host would have to wait for the device.
