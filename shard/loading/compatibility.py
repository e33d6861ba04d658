"""Which architectures can be served: refused by name before loading, or tested after it.

Rolling back rejected drafts needs a cache of keys and values by position. State-space models and
linear attention are therefore refused by class, and sparse or chunked attention by layer type. What
no name shows is tested: `verify_logits` compares a few tokens with transformers' own attention.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from shard.attention.interface import AttentionProbe
from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.errors import StartupError, first_line
from shard.model.attention_adapters.adapter_table import find_adapter, transformers_attention
from shard.model.forward import transformers_forward
from shard.model.packed_model import LoadedModel, PackedModel
from shard.wire.protocol import Sampling

_log = logging.getLogger(__name__)
_RECURRENT_LAYERS = ("mamba", "linear_attention", "conv", "recurrent", "rwkv", "hybrid")
_ATTENTION_LAYERS = frozenset(("full_attention", "sliding_attention", "attention"))
_UNDECLARED_INTERFACE = frozenset(("stablelm",))
"""Values of `model_type` whose models use the attention interface without declaring it."""
_POSITION_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
_DEFAULT_POSITIONS = 2048
"""Positions of a model that states none: BLOOM was trained with as many."""
_PROBE_TOKENS = (5, 3, 8, 1, 2, 7, 4, 6, 9, 3, 1, 5)
_PROBE_CHUNK = 3
"""The compared tokens, and the length of the first of two chunks of them, so that the second chunk
attends to cached keys."""
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""Maximum difference of the logits, relative to their standard deviation."""


def refuse_unsupported(config: Any) -> str:
    """The name of its model class. Raises StartupError(4) if it cannot be paged or rolled back."""
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if kind is None:
        raise StartupError(
            4, f"{config.model_type} is not supported: it is not a causal language model"
        )
    kind = kind[0] if isinstance(kind, (tuple, list)) else kind
    name: str = kind.__name__
    if reason := _unsupported_reason(kind, config):
        raise StartupError(4, f"{name} is not supported: {reason}")
    return name


def _unsupported_reason(kind: Any, config: Any) -> str | None:
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    text, adapter = config.get_text_config(), find_adapter(config)
    layers = set(getattr(text, "layer_types", None) or ())
    if adapter is not None:
        layers -= adapter.layer_types
    if getattr(kind, "_is_stateful", False) or any(
        layer.startswith(_RECURRENT_LAYERS) for layer in layers
    ):
        return "its recurrent state cannot be rolled back"
    uses_interface = getattr(kind, "_supports_attention_backend", False)
    if not uses_interface and not adapter and config.model_type not in _UNDECLARED_INTERFACE:
        return "it does not use the attention interface"
    if other := sorted(layers - _ATTENTION_LAYERS):
        return f"its layers of type {', '.join(other)} cannot be paged"
    return None


def max_positions(config: Any, name: str) -> int:
    """Maximum length of a row: the positions that the model was trained for.

    A rotary embedding of type longrope has two sets of frequencies, and transformers chooses one
    for the whole forward pass by its last position. One long row would then change the keys of all
    others, so that only the model's original length is served.
    """
    values = (getattr(config, field, None) for field in _POSITION_FIELDS)
    stated = longest = next((int(value) for value in values if value), _DEFAULT_POSITIONS)
    rope: Any = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    for kind in kinds:
        if kind.get("rope_type") == "longrope":
            longest = min(longest, kind["original_max_position_embeddings"])
    if longest < stated:
        _log.warning(
            "%s serves %d of its %d positions: beyond that, its longrope embedding would make the"
            " rows of a batch depend on each other",
            name,
            longest,
            stated,
        )
    return longest


def verify_logits(model: LoadedModel) -> None:
    """Compare packed, paged logits with those of transformers' own attention.

    They differ if the attention is not causal, if the model computes its own positions, or if its
    mask has a bias. Every rank gets the same result. Raises StartupError(4) if they differ.
    """
    logits = _packed_logits(model).float()
    try:
        with _local_key_value_groups(model):
            reference = _reference_logits(model).float()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise StartupError(
            4, f"{model.name} is not supported: transformers cannot run it ({first_line(error)})"
        ) from error
    difference = _relative_error(logits, reference)
    if not difference <= _TOLERANCE[model.dtype]:
        raise StartupError(
            4,
            f"{model.name} is not supported: its paged logits differ from transformers' own"
            f" by {difference:.2g} of their standard deviation",
        )


def _relative_error(logits: Tensor, reference: Tensor) -> float:
    """Root mean square difference over the standard deviation of the logits, of the median token.

    Not of the worst token, since in half precision rounding may route one to another expert.
    """
    difference = (logits - reference).pow(2).mean(dim=-1).sqrt()
    error = difference / reference.std(dim=-1).clamp(min=1e-6)
    return error.median().item()


def refuse_hidden_window(text_config: Any, name: str, probe: AttentionProbe) -> None:
    """Refuse a sliding window that appears only in the mask, since no mask is built.

    `probe` has recorded a forward. Raises StartupError(4).
    """
    window = getattr(text_config, "sliding_window", None)
    layers = getattr(text_config, "layer_types", None)
    if not window or (layers and "sliding_attention" not in layers):
        return
    if all(rule.window != window for rule in probe.params.values()):
        raise StartupError(
            4, f"{name} is not supported: its layers do not report their sliding window"
        )


def _packed_logits(model: LoadedModel) -> Tensor:
    row = CachedRow(0, list(_PROBE_TOKENS), len(_PROBE_TOKENS), 1, True, Sampling(), pages=[1])
    packed = PackedModel(model, 1, fuse=False)
    first = packed.logits([TokenSpan(row, 0, _PROBE_TOKENS[:_PROBE_CHUNK], _PROBE_CHUNK)])
    rest = packed.logits(
        [
            TokenSpan(
                row, _PROBE_CHUNK, _PROBE_TOKENS[_PROBE_CHUNK:], len(_PROBE_TOKENS) - _PROBE_CHUNK
            )
        ]
    )
    return torch.cat((first, rest))


@contextmanager
def _local_key_value_groups(model: LoadedModel) -> Iterator[None]:
    """Inside, transformers' attention repeats keys as this rank's partition requires.

    It would use the heads of the whole model, which is wrong if ranks share key/value heads.
    """
    probe = _record_attention(model)
    modules = model.module.modules()
    parts: list[Any] = [part for part in modules if hasattr(part, "num_key_value_groups")]
    before = [part.num_key_value_groups for part in parts]
    try:
        for part in parts:
            part.num_key_value_groups = probe.group_sizes[part.layer_idx]
        yield
    finally:
        for part, groups in zip(parts, before, strict=True):
            part.num_key_value_groups = groups


def _record_attention(model: LoadedModel) -> AttentionProbe:
    """The parameters that each layer passes to attention, recorded with one token."""
    zero = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    probe = AttentionProbe()
    with torch.inference_mode():
        transformers_forward(model.module)(zero, zero, probe, zero[0])
    return probe


def _reference_logits(model: LoadedModel) -> Tensor:
    module: Any = model.module
    ids = torch.tensor([_PROBE_TOKENS], device=model.device)
    with transformers_attention(module), torch.inference_mode():
        logits: Tensor = module(input_ids=ids, use_cache=False).logits[0]
    return logits
