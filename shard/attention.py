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
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, softmax
from transformers import AttentionInterface

from shard.kv_cache import KvCache, LayerShape

IMPLEMENTATION = "paged_rows"
"""The name under which transformers finds `attend`."""
_KEPT = 16
"""Masks of at most so many tokens are kept: verifications, which come again and again."""
_REACH = 256
"""Least length of a kept mask."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One row's place in a packed Step: tokens `start:stop`, and the slots they attend to.

    `spans` cover `length` tokens: what was cached before and the segment's own tokens last.
    """

    start: int
    stop: int
    length: int
    spans: tuple[slice, ...]


class Layout(Protocol):
    """What `attend` does with one layer's tensors."""

    def layer(self, index: int, fresh: Tensor, query: Tensor, rule: Rule) -> Tensor:
        """Store `fresh` [T, 2 * KV heads, D], keys before values; attend `query` [T, heads, D].

        Returns [T, heads, D].
        """


@dataclass(frozen=True, slots=True)
class Rule:
    """How one layer attends."""

    scale: float
    window: int | None
    softcap: float | None
    sinks: Tensor | None


@dataclass(frozen=True, slots=True)
class View:
    """What the tokens `start:stop` of a packed Step see: the slots in `spans`, under `mask`.

    `mask` is additive, a row per folded query row (see `attend_row`), or None where a single
    token sees everything.
    """

    start: int
    stop: int
    spans: tuple[slice, ...]
    mask: Tensor | None


class Paged:
    """The layout of a real Step: write to `cache` at `slots` [T], attend segment by segment.

    What a segment sees is the same in all layers of one kind, so it is worked out once.
    """

    def __init__(self, cache: KvCache, slots: Tensor, segments: Sequence[Segment]) -> None:
        self.cache = cache
        self.slots = slots
        self.segments = segments
        self._views: dict[tuple[int | None, int], list[View]] = {}

    def layer(self, index: int, fresh: Tensor, query: Tensor, rule: Rule) -> Tensor:
        """See `Layout`."""
        self.cache.write(index, self.slots, fresh)
        return self.attend(index, query, rule, 2 * query.shape[1] // fresh.shape[1])

    def attend(self, index: int, query: Tensor, rule: Rule, group: int) -> Tensor:
        """Attend `query` [T, heads, D], `group` heads to a key head, to what is stored."""
        kind = rule.window, group
        if kind not in self._views:
            self._views[kind] = [_view(part, *kind, query) for part in self.segments]
        views = self._views[kind]
        parts = []
        for view in views:
            keys, values = self.cache.read(index, view.spans)
            own = query if len(views) == 1 else query[view.start : view.stop]
            parts.append(attend_row(own, keys, values, view.mask, rule))
        return parts[0] if len(parts) == 1 else torch.cat(parts)


class Probe:
    """The layout of the first forward at load: learns every layer's shape, caches nothing."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}
        self.rules: dict[int, Rule] = {}

    def layer(self, index: int, fresh: Tensor, query: Tensor, rule: Rule) -> Tensor:
        """Record the shape and the rule of layer `index`."""
        self.shapes[index] = LayerShape(fresh.shape[1] // 2, fresh.shape[2])
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


def attend_row(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, rule: Rule
) -> Tensor:
    """One row: its n newest tokens attend to L tokens, as far as the additive `mask` lets them.

    `query` [n, H, D], `keys` and `values` [Hkv, L, D]; returns [n, H, D]. The H / Hkv query heads
    of one key head are folded into its query rows, so keys are never repeated, and `mask` is
    [n * H / Hkv, L].
    """
    count, heads, dim = query.shape
    kv_heads = keys.shape[0]
    folded = _fold(query, kv_heads)
    if rule.softcap is None and rule.sinks is None:
        out = scaled_dot_product_attention(
            folded[None], keys[None], values[None], attn_mask=mask, scale=rule.scale
        )[0]
    else:
        out = _explicit(folded, keys, values, mask, rule)
    if count == 1:
        return out.reshape(1, heads, dim)
    return out.view(kv_heads, count, -1, dim).transpose(0, 1).reshape(count, heads, dim)


def _fold(query: Tensor, kv_heads: int) -> Tensor:
    """From [n, H, D] to [Hkv, n * H / Hkv, D]; a single token's heads lie right already."""
    count, heads, dim = query.shape
    if count == 1:
        return query.reshape(kv_heads, -1, dim)
    parts = query.reshape(count, kv_heads, heads // kv_heads, dim).transpose(0, 1)
    return parts.reshape(kv_heads, -1, dim)


def _view(part: Segment, window: int | None, group: int, like: Tensor) -> View:
    """What `part` sees; slots that lie before every token's window are left out."""
    count = part.stop - part.start
    length = part.length if window is None else min(part.length, window + count - 1)
    mask = None if count == 1 else _mask(count, length, window, group, like)
    return View(part.start, part.stop, _last(part.spans, length), mask)


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


def _mask(count: int, length: int, window: int | None, group: int, like: Tensor) -> Tensor:
    """Additive [count * group, length]: causal, aligned to the bottom right, within the window.

    Masks of a few tokens are cut from the right of a longer one that is kept.
    """
    if count > _KEPT:
        return _aligned(count, length, window, group, like.dtype, like.device)
    reach = max(_REACH, 1 << (length - 1).bit_length())
    return _kept(count, reach, window, group, like.dtype, like.device)[:, -length:]


def _aligned(
    count: int,
    length: int,
    window: int | None,
    group: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    own = torch.arange(length - count, length, device=device)[:, None]
    seen = torch.arange(length, device=device)[None]
    allowed = seen <= own if window is None else (seen <= own) & (seen > own - window)
    zero = torch.zeros((), dtype=dtype, device=device)
    return torch.where(allowed, zero, float("-inf")).repeat_interleave(group, 0)


_kept = lru_cache(maxsize=64)(_aligned)


def _explicit(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, rule: Rule
) -> Tensor:
    """Attention with soft-capped scores (Gemma 2) or learned sinks (gpt-oss), in float32."""
    scores = (query @ keys.transpose(1, 2)).float() * rule.scale  # [Hkv, n * group, L]
    if rule.softcap is not None:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    if mask is not None:
        scores = scores + mask
    if rule.sinks is not None:
        scores = torch.cat((scores, _sink_column(rule.sinks, scores)), dim=-1)
    weights = softmax(scores, dim=-1)[..., : keys.shape[1]]
    return weights.to(values.dtype) @ values


def _sink_column(sinks: Tensor, scores: Tensor) -> Tensor:
    """One logit per query head, laid out as the folded query rows: [Hkv, n * group, 1]."""
    kv_heads, rows, _ = scores.shape
    per_head = sinks.float().reshape(kv_heads, -1)  # [Hkv, group]
    return per_head.repeat(1, rows // per_head.shape[1])[..., None]


AttentionInterface.register(IMPLEMENTATION, attend)
# AttentionMaskInterface gets no entry, so transformers builds no mask; nor does it look at the
# positions for packed rows, for which the host would wait for the device.
