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
from torch.nn.functional import scaled_dot_product_attention, softmax
from transformers import AttentionInterface, AttentionMaskInterface

from shard.kv_cache import KvCache, LayerShape

IMPLEMENTATION = "paged_rows"
"""The name under which transformers finds `attend`."""


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

    def layer(self, index: int, key: Tensor, value: Tensor, query: Tensor, rule: Rule) -> Tensor:
        """Store [heads, T, D] keys and values, return [T, query heads, D]."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How one layer attends."""

    scale: float
    window: int | None
    softcap: float | None
    sinks: Tensor | None


@dataclass(frozen=True, slots=True)
class Paged:
    """The layout of a real Step: write to `cache` at `slots` [T], attend segment by segment."""

    cache: KvCache
    slots: Tensor
    segments: Sequence[Segment]

    def layer(self, index: int, key: Tensor, value: Tensor, query: Tensor, rule: Rule) -> Tensor:
        """See `Layout`."""
        self.cache.write(index, self.slots, key, value)
        out = query.new_empty(query.shape[1], query.shape[0], query.shape[2])
        for part in self.segments:
            keys, values = self.cache.read(index, part.spans)
            own = query[:, part.start : part.stop]
            out[part.start : part.stop] = attend_row(own, keys, values, rule).transpose(0, 1)
        return out


class Probe:
    """The layout of the first forward at load: learns every layer's shape, caches nothing."""

    def __init__(self) -> None:
        self.shapes: dict[int, LayerShape] = {}

    def layer(self, index: int, key: Tensor, value: Tensor, query: Tensor, rule: Rule) -> Tensor:
        """Record the shapes of layer `index`. Raises ValueError where K and V differ."""
        if key.shape != value.shape:
            raise ValueError(f"keys {tuple(key.shape)} and values {tuple(value.shape)} differ")
        self.shapes[index] = LayerShape(key.shape[0], key.shape[2])
        return query.transpose(0, 1)


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
    """transformers' attention interface: [1, H, T, D] queries to [1, T, H, D]."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rule = Rule(scale, sliding_window, softcap, s_aux)
    index = int(module.layer_idx)  # type: ignore[arg-type]
    return _current[-1].layer(index, key[0], value[0], query[0], rule)[None], None


def attend_row(query: Tensor, keys: Tensor, values: Tensor, rule: Rule) -> Tensor:
    """One row: the last n of its L tokens attend causally to all L.

    `query` [H, n, D], `keys` and `values` [Hkv, L, D]; returns [H, n, D]. The H / Hkv query heads
    of one key head are folded into its query rows, so keys are never repeated.
    """
    if rule.window is not None and query.shape[1] == 1:
        keys, values = keys[:, -rule.window :], values[:, -rule.window :]
    heads, count, dim = query.shape
    folded = query.reshape(keys.shape[0], -1, dim)  # [Hkv, group * n, D]
    mask = _mask(count, keys.shape[1], rule.window, query) if count > 1 else None
    if mask is not None:
        mask = mask.repeat(heads // keys.shape[0], 1)  # [group * n, L]
    if rule.softcap is None and rule.sinks is None:
        out = scaled_dot_product_attention(
            folded[None], keys[None], values[None], attn_mask=mask, scale=rule.scale
        )[0]
    else:
        out = _explicit(folded, keys, values, mask, rule)
    return out.reshape(heads, count, dim)


def _mask(count: int, length: int, window: int | None, like: Tensor) -> Tensor:
    """Additive [count, length]: causal, aligned to the bottom right, and within the window."""
    own = torch.arange(length - count, length, device=like.device)[:, None]
    seen = torch.arange(length, device=like.device)[None]
    allowed = seen <= own if window is None else (seen <= own) & (seen > own - window)
    zero = torch.zeros((), dtype=like.dtype, device=like.device)
    return torch.where(allowed, zero, float("-inf"))


def _explicit(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, rule: Rule
) -> Tensor:
    """Attention with soft-capped scores (Gemma 2) or learned sinks (gpt-oss), in float32."""
    scores = (query @ keys.transpose(1, 2)).float() * rule.scale  # [Hkv, group * n, L]
    if rule.softcap is not None:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    if mask is not None:
        scores = scores + mask
    if rule.sinks is not None:
        scores = torch.cat((scores, _sink_column(rule.sinks, scores)), dim=-1)
    weights = softmax(scores, dim=-1)[..., : keys.shape[1]]
    return weights.to(values.dtype) @ values


def _sink_column(sinks: Tensor, scores: Tensor) -> Tensor:
    """One logit per query head, laid out as the folded query rows: [Hkv, group * n, 1]."""
    kv_heads, rows, _ = scores.shape
    per_head = sinks.float().reshape(kv_heads, -1)  # [Hkv, group]
    return per_head.repeat_interleave(rows // per_head.shape[1], dim=1)[..., None]


def _no_mask(*_: Any, **__: Any) -> None:
    """Keeps transformers from building a mask: `attend` knows which token sees which."""


AttentionInterface.register(IMPLEMENTATION, attend)
AttentionMaskInterface.register(IMPLEMENTATION, _no_mask)
