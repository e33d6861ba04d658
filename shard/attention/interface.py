"""Attention over the paged pool, registered with transformers as an implementation of its own.

The model runs packed: all tokens of all rows of a Step in one sequence `[1, T]`, without a mask
and without transformers' cache. transformers calls `attend` once per layer; it stores the new
keys and values and lets every row attend to its own slots. The layout of the Step travels in
`_current`, since not every model passes unknown arguments on. `attend` knows rows only as
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
from shard.attention.sdpa_padded import Crowd, joins
from shard.attention.sdpa_padded import Segment as Segment
from shard.attention.sdpa_row import Rule as Rule
from shard.attention.sdpa_row import attend_row, attend_spans, causal_mask

IMPLEMENTATION = "paged_rows"
"""The name under which transformers finds `attend`."""
_APART = 512
"""Tokens of a span, on average, from which spans are attended to apart: copying costs more."""


class Layout(Protocol):
    """What `attend` does with one layer's tensors."""

    def layer(self, index: int, fresh: Tensor, query: Tensor, rule: Rule) -> Tensor:
        """Store `fresh` [T, 2 * KV heads, D], keys before values; attend `query` [T, heads, D].

        Returns [T, heads, D].
        """


@dataclass(frozen=True, slots=True)
class View:
    """What the tokens `start:stop` of a packed Step see: the slots in `spans`, under `mask`.

    `mask` is additive, a row per folded query row (see `row_attention`), or None where a single
    token sees everything.
    """

    start: int
    stop: int
    spans: tuple[slice, ...]
    mask: Tensor | None
    apart: bool
    """Whether the spans are attended to one by one, and not copied together."""


class Paged:
    """The layout of a real Step: write to `cache` at `slots` [T], attend segment by segment.

    Segments that are better off so attend as one crowd. What a segment sees is the same in all
    layers of one kind, so it is worked out once.
    """

    def __init__(self, cache: KvCache, slots: Tensor, segments: Sequence[Segment]) -> None:
        self.cache = cache
        self.slots = slots
        self.segments = segments
        self._plans: dict[tuple[int | None, int, bool], tuple[list[View], Crowd | None]] = {}

    def layer(self, index: int, fresh: Tensor, query: Tensor, rule: Rule) -> Tensor:
        """See `Layout`."""
        self.cache.write(index, self.slots, fresh)
        return self.attend(index, query, rule, 2 * query.shape[1] // fresh.shape[1])

    def attend(self, index: int, query: Tensor, rule: Rule, group: int) -> Tensor:
        """Attend `query` [T, heads, D], `group` heads to a key head, to what is stored."""
        kind = rule.window, group, rule.plain
        if kind not in self._plans:
            self._plans[kind] = self._plan(index, query, *kind)
        views, crowd = self._plans[kind]
        if crowd is None and len(views) == 1:
            return self._attend(index, query, views[0], rule)
        out = torch.empty_like(query)
        for view in views:
            own = slice(view.start, view.stop)
            out[own] = self._attend(index, query[own], view, rule)
        if crowd is not None:
            crowd.attend(query, self.cache.pool(index), rule.scale, out)
        return out

    def _plan(
        self, index: int, query: Tensor, window: int | None, group: int, plain: bool
    ) -> tuple[list[View], Crowd | None]:
        """Who attends alone, and the crowd, if there is one: on the CPU, of more than one row."""
        pool = self.cache.pool(index)
        slot_bytes = pool[0].numel() * pool.itemsize
        crowd = [part for part in self.segments if joins(part, slot_bytes)]
        if not plain or query.device.type != "cpu" or len(crowd) < 2:
            return [_view(part, window, group, query) for part in self.segments], None
        alone = [part for part in self.segments if not joins(part, slot_bytes)]
        views = [_view(part, window, group, query) for part in alone]
        return views, Crowd.of(crowd, window, group, query)

    def _attend(self, index: int, own: Tensor, view: View, rule: Rule) -> Tensor:
        if view.apart and rule.plain:
            pieces = [self.cache.read(index, (span,)) for span in view.spans]
            return attend_spans(own, pieces, view.mask, rule)
        keys, values = self.cache.read(index, view.spans)
        return attend_row(own, keys, values, view.mask, rule)


class Probe:
    """The layout of the first forward at load: learns every layer's shape, caches nothing."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self.rules: dict[int, Rule] = {}
        self.groups: dict[int, int] = {}
        """Query heads to a key head."""

    def layer(self, index: int, fresh: Tensor, query: Tensor, rule: Rule) -> Tensor:
        """Record the shape and the rule of layer `index`."""
        self.shapes[index] = LayerShape(fresh.shape[1] // 2, fresh.shape[2])
        self.groups[index] = 2 * query.shape[1] // fresh.shape[1]
        self.rules[index] = rule
        return query


_current: list[Layout] = []


@contextmanager
def attending(layout: Layout) -> Iterator[None]:
    """Inside, forwards of models built with `IMPLEMENTATION` attend by `layout`."""
    _current.append(layout)
    try:
        yield
    finally:
        _current.pop()


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
    rule = Rule(scale, sliding_window, softcap, s_aux)
    index = int(module.layer_idx)  # type: ignore[arg-type]
    fresh = torch.cat((key[0], value[0])).transpose(0, 1)
    return _current[-1].layer(index, fresh, query[0].transpose(0, 1), rule)[None], None


def _view(part: Segment, window: int | None, group: int, like: Tensor) -> View:
    """What `part` sees; slots that lie before every token's window are left out."""
    count = part.stop - part.start
    length = part.length if window is None else min(part.length, window + count - 1)
    mask = None if count == 1 else causal_mask(count, length, window, group, like)
    spans = _last(part.spans, length)
    return View(part.start, part.stop, spans, mask, _apart(spans, count, window, like))


def _apart(spans: tuple[slice, ...], count: int, window: int | None, like: Tensor) -> bool:
    """Whether the spans are long, and each of the `count` tokens sees something in all of them."""
    last, length = spans[-1], sum(span.stop - span.start for span in spans)
    seen = window is None and last.stop - last.start >= count
    return like.device.type == "cpu" and seen and len(spans) > 1 and length >= _APART * len(spans)


def _last(spans: tuple[slice, ...], length: int) -> tuple[slice, ...]:
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
