"""Attention over the paged pool, registered with transformers as an implementation of its own.

The model runs packed: all tokens of all rows of a Step in one sequence `[1, T]`, without a mask
and without transformers' cache. transformers calls `attend` once per layer; it stores the new
keys and values and lets every row attend to its own slots. The layout of the Step travels in
`_layouts`, since not every model passes unknown arguments on. `attend` knows rows only as
segments: no request, no sampling, no draft.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from shard.attention.kv_cache import KvCache, LayerShape
from shard.attention.sdpa_padded import PaddedRows, fits_padded_batch
from shard.attention.sdpa_padded import Segment as Segment
from shard.attention.sdpa_row import AttentionParams as AttentionParams
from shard.attention.sdpa_row import attend_row, attend_spans, causal_mask

IMPLEMENTATION = "paged_rows"
"""The name under which transformers finds `attend`."""
_SEPARATE_SPAN_TOKENS = 512
"""Tokens of a span, on average, from which spans are attended to apart: copying costs more."""


class Layout(Protocol):
    """What `attend` does with one layer's tensors."""

    def attend_layer(
        self, index: int, new_kv: Tensor, query: Tensor, params: AttentionParams
    ) -> Tensor:
        """Store `fresh` [T, 2 * KV heads, D], keys before values; attend `query` [T, heads, D].

        Returns [T, heads, D].
        """


@dataclass(frozen=True, slots=True)
class SegmentView:
    """What the tokens `start:stop` of a packed Step see: the slots in `spans`, under `mask`.

    `mask` is additive, a row per folded query row (see `sdpa_row`), or None where a single
    token sees everything.
    """

    start: int
    stop: int
    spans: tuple[slice, ...]
    mask: Tensor | None
    separate: bool
    """Whether the spans are attended to one by one, and not copied together."""


class PagedLayout:
    """The layout of a real Step: write to `cache` at `slots` [T], attend segment by segment.

    Segments that are better off so attend as one crowd. What a segment sees is the same in all
    layers of one kind, so it is worked out once.
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
        self.cache.write(index, self.slots, new_kv)
        return self.attend(index, query, params, 2 * query.shape[1] // new_kv.shape[1])

    def attend(self, index: int, query: Tensor, params: AttentionParams, group: int) -> Tensor:
        """Attend `query` [T, heads, D], `group` heads to a key head, to what is stored."""
        kind = params.window, group, params.is_plain
        if kind not in self._plans:
            self._plans[kind] = self._plan(index, query, *kind)
        views, crowd = self._plans[kind]
        if crowd is None and len(views) == 1:
            return self._attend_view(index, query, views[0], params)
        out = torch.empty_like(query)
        for view in views:
            own = slice(view.start, view.stop)
            out[own] = self._attend_view(index, query[own], view, params)
        if crowd is not None:
            crowd.attend(query, self.cache.pool(index), params.scale, out)
        return out

    def _plan(
        self, index: int, query: Tensor, window: int | None, group: int, plain: bool
    ) -> tuple[list[SegmentView], PaddedRows | None]:
        """Who attends alone, and the crowd, if there is one: on the CPU, of more than one row."""
        pool = self.cache.pool(index)
        slot_bytes = pool[0].numel() * pool.itemsize
        crowd = [part for part in self.segments if fits_padded_batch(part, slot_bytes)]
        if not plain or query.device.type != "cpu" or len(crowd) < 2:
            return [_segment_view(part, window, group, query) for part in self.segments], None
        alone = [part for part in self.segments if not fits_padded_batch(part, slot_bytes)]
        views = [_segment_view(part, window, group, query) for part in alone]
        return views, PaddedRows.from_segments(crowd, window, group, query)

    def _attend_view(
        self, index: int, query: Tensor, view: SegmentView, params: AttentionParams
    ) -> Tensor:
        if view.separate and params.is_plain:
            pieces = [self.cache.read(index, (span,)) for span in view.spans]
            return attend_spans(query, pieces, view.mask, params)
        keys, values = self.cache.read(index, view.spans)
        return attend_row(query, keys, values, view.mask, params)


class AttentionProbe:
    """The layout of the first forward at load: learns every layer's shape, caches nothing."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self.params: dict[int, AttentionParams] = {}
        self.group_sizes: dict[int, int] = {}
        """Query heads to a key head."""

    def attend_layer(
        self, index: int, new_kv: Tensor, query: Tensor, params: AttentionParams
    ) -> Tensor:
        """Record the shape and the rule of layer `index`."""
        self.shapes[index] = LayerShape(new_kv.shape[1] // 2, new_kv.shape[2])
        self.group_sizes[index] = 2 * query.shape[1] // new_kv.shape[1]
        self.params[index] = params
        return query


_layouts: list[Layout] = []


@contextmanager
def use_layout(layout: Layout) -> Iterator[None]:
    """Inside, forwards of models built with `IMPLEMENTATION` attend by `layout`."""
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

    Raises ValueError where keys and values differ in size.
    """
    if key.shape != value.shape:
        raise ValueError(f"keys {tuple(key.shape)} and values {tuple(value.shape)} differ")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rule = AttentionParams(scale, sliding_window, softcap, s_aux)
    index = int(module.layer_idx)  # type: ignore[arg-type]
    fresh = torch.cat((key[0], value[0])).transpose(0, 1)
    return _layouts[-1].attend_layer(index, fresh, query[0].transpose(0, 1), rule)[None], None


def _segment_view(segment: Segment, window: int | None, group: int, like: Tensor) -> SegmentView:
    """What `part` sees; slots that lie before every token's window are left out."""
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
    """Whether the spans are long, and each of the `count` tokens sees something in all of them."""
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
# AttentionMaskInterface gets no entry, so transformers builds no mask; nor does it look at the
# positions for packed rows, for which the host would wait for the device.
