"""Which forward computes a model's logits: transformers' own, or a fused one that agrees with it.

The choice is made once at load, by running a short row through both. A model that is not fused, or
whose logits differ, runs on transformers' forward and the log says why; its linear layers still
multiply by the kernels that are the fastest. Ranks choose alike, since they compare the same
gathered logits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from shard.attention.interface import Layout, use_layout
from shard.attention.kv_cache import PAGE_SIZE, KvCache, LayerShape
from shard.attention.paged_layout import PagedLayout
from shard.attention.sdpa_padded import Segment
from shard.model.attention_adapters.adapter_table import model_arguments
from shard.model.fused_llama import CannotFuse, FusedLlama, free_module_weights
from shard.model.linear_layers import replace_products
from shard.model.lora_layers import LoraLayers
from shard.model.product_times import ONE_RANK, Measurements

MAX_RELATIVE_DIFFERENCE = 1e-4
"""Maximum difference between two forwards' logits in float32, relative to the largest logit."""
MAX_HALF_DIFFERENCE = 0.05
"""The same in half precision, where a kernel changes the rounding of every layer."""
_PROBE_PROMPT_TOKENS, _PROBE_NEXT_TOKENS = 11, 5
"""Tokens of the row that is compared: a prompt, then what follows it in the cache."""
_log = logging.getLogger(__name__)

Forward = Callable[[Tensor, Tensor, Layout, Tensor], Tensor]
"""From ids and positions [1, T], a layout and the wanted indices [N] to logits [N, V]."""


def choose_forward(
    module: nn.Module,
    name: str,
    shapes: tuple[LayerShape, ...],
    fuse: bool = True,
    measurements: Measurements = ONE_RANK,
    adapted: LoraLayers | None = None,
) -> Forward:
    """The forward of `module`, an architecture called `name` with caches of `shapes`.

    `measurements` makes measured times equal on all ranks. If the fused forward is chosen, the
    module's layers are freed, and it computes with the adapters in `adapted`.
    """
    original = transformers_forward(module)
    if not fuse:
        return original
    try:
        with torch.inference_mode():
            fused = FusedLlama(module, name, measurements, adapted)
    except CannotFuse as reason:
        _log.info("%s runs on transformers' forward: %s", name, reason)
        return _with_fast_products(module, name, shapes, measurements)
    difference = relative_difference(original, fused, module, shapes)
    if not difference <= MAX_RELATIVE_DIFFERENCE:  # NaN does not agree
        _log.warning(
            "%s runs on transformers' forward: the fused one differs by %.1e; %.0e is allowed",
            name,
            difference,
            MAX_RELATIVE_DIFFERENCE,
        )
        return original
    free_module_weights(module)
    return fused


def _with_fast_products(
    module: nn.Module, name: str, shapes: tuple[LayerShape, ...], measurements: Measurements
) -> Forward:
    """transformers' forward, with products by the fastest kernels if the logits stay the same."""
    forward = transformers_forward(module)
    expected = probe_logits(forward, module, shapes)
    replaced = replace_products(module, measurements)
    limit = MAX_RELATIVE_DIFFERENCE if expected.dtype == torch.float32 else MAX_HALF_DIFFERENCE
    try:
        fault = _difference_fault(expected, probe_logits(forward, module, shapes), limit)
    except (RuntimeError, NotImplementedError) as error:  # the model reads a weight itself
        fault = str(error).split("\n")[0]
    if fault:
        _log.warning("%s keeps its own products: %s", name, fault)
        replaced.restore()
    return forward


def _difference_fault(expected: Tensor, found: Tensor, limit: float) -> str | None:
    """Why `found` is not close enough to `expected`; None if it is."""
    difference = float((expected - found).abs().max() / expected.abs().max())
    agrees = difference <= limit  # NaN does not agree
    return None if agrees else f"the logits differ by {difference:.1e}; {limit:.0e} is allowed"


def transformers_forward(module: nn.Module) -> Forward:
    """transformers' own forward."""

    def forward(ids: Tensor, positions: Tensor, layout: Layout, wanted: Tensor) -> Tensor:
        arguments = model_arguments(module, positions)
        with use_layout(layout, positions):
            output = module(input_ids=ids, use_cache=False, logits_to_keep=wanted, **arguments)
        logits: Tensor = output.logits
        return logits[0]

    return forward


def relative_difference(
    one: Forward, other: Forward, module: nn.Module, shapes: tuple[LayerShape, ...]
) -> float:
    """Maximum difference of two forwards on a short row, relative to the largest logit."""
    first, second = (probe_logits(forward, module, shapes) for forward in (one, other))
    return float((first - second).abs().max() / first.abs().max())


def probe_logits(forward: Forward, module: nn.Module, shapes: tuple[LayerShape, ...]) -> Tensor:
    """Logits of every token of a short row; the last ones use the cache of the first."""
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
