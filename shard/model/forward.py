"""Which forward computes a model's logits: transformers' own, or a fused one that agrees with it.

The choice is made once at load, by running a short row through both. What is not fused, or does
not agree, runs on transformers' forward and the log says why. Ranks choose alike, since they
compare the same gathered logits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from shard.attention.interface import Layout, PagedLayout, Segment, use_layout
from shard.attention.kv_cache import PAGE_SIZE, KvCache, LayerShape
from shard.model.fused_llama import CannotFuse, FusedLlama, free_module_weights

MAX_RELATIVE_DIFFERENCE = 1e-4
"""Largest difference between two forwards' logits, as a share of the largest logit."""
_PROBE_PROMPT_TOKENS, _PROBE_NEXT_TOKENS = 11, 5
"""Tokens of the row that is compared: a prompt, then what follows it in the cache."""
_log = logging.getLogger(__name__)

Forward = Callable[[Tensor, Tensor, Layout, Tensor], Tensor]
"""From ids and positions [1, T], a layout and the wanted indices [N] to logits [N, V]."""


def choose_forward(
    module: nn.Module, name: str, shapes: tuple[LayerShape, ...], fuse: bool = True
) -> Forward:
    """The forward of `module`, an architecture called `name` with caches of `shapes`.

    Where the fused forward is chosen, the module's layers are given up.
    """
    whole = transformers_forward(module)
    if not fuse:
        return whole
    try:
        with torch.inference_mode():
            fused = FusedLlama(module, name)
    except CannotFuse as reason:
        _log.info("%s runs on transformers' forward: %s", name, reason)
        return whole
    found = relative_difference(whole, fused, module, shapes)
    if not found <= MAX_RELATIVE_DIFFERENCE:  # NaN does not agree
        _log.warning(
            "%s runs on transformers' forward: the fused one differs from it by %.1e, of which "
            "%.0e is allowed",
            *(name, found, MAX_RELATIVE_DIFFERENCE),
        )
        return whole
    free_module_weights(module)
    return fused


def transformers_forward(module: nn.Module) -> Forward:
    """transformers' own forward."""

    def forward(ids: Tensor, positions: Tensor, layout: Layout, wanted: Tensor) -> Tensor:
        with use_layout(layout):
            output = module(
                input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=wanted
            )
        logits: Tensor = output.logits
        return logits[0]

    return forward


def relative_difference(
    one: Forward, other: Forward, module: nn.Module, shapes: tuple[LayerShape, ...]
) -> float:
    """The largest difference of two forwards on a short row, as a share of the largest logit."""
    first, second = (_probe_logits(forward, module, shapes) for forward in (one, other))
    return float((first - second).abs().max() / first.abs().max())


def _probe_logits(forward: Forward, module: nn.Module, shapes: tuple[LayerShape, ...]) -> Tensor:
    """Logits of every token of a row, the last ones from the cache."""
    weight = next(module.parameters())
    cache = KvCache(shapes, 1, weight.dtype, weight.device)
    ids = 7 * torch.arange(PAGE_SIZE, device=weight.device) % len(weight)
    logits = []
    with torch.inference_mode():
        for start, stop in (
            (0, _PROBE_PROMPT_TOKENS),
            (_PROBE_PROMPT_TOKENS, _PROBE_PROMPT_TOKENS + _PROBE_NEXT_TOKENS),
        ):
            own = torch.arange(start, stop, device=weight.device)
            segment = Segment(0, stop - start, stop, (slice(PAGE_SIZE, PAGE_SIZE + stop),))
            layout = PagedLayout(cache, PAGE_SIZE + own, [segment])
            logits.append(forward(ids[None, start:stop], own[None], layout, own - start))
    return torch.cat(logits)
