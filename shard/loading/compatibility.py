"""Which architectures can be served: refused by name before loading, or checked after it.

Rolling back rejected drafts needs a cache that is keys and values by position. So state-space and
linear attention are refused by their class, selecting or chunked attention by its layer type.
What no name tells is measured: `verify` compares a few tokens with transformers' own attention.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from shard.attention.interface import IMPLEMENTATION, AttentionProbe, use_layout
from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.errors import StartupError
from shard.model.packed_model import LoadedModel, PackedModel
from shard.wire.protocol import Sampling

_log = logging.getLogger(__name__)
_RECURRENT_LAYERS = ("mamba", "linear_attention", "conv", "recurrent", "rwkv", "hybrid")
_ATTENTION_LAYERS = frozenset(("full_attention", "sliding_attention", "attention"))
_PROBE_TOKENS = (5, 3, 8, 1, 2, 7, 4, 6, 9, 3, 1, 5)
"""Tokens of the comparison; two chunks of them, so that the second attends to cached keys."""
_PROBE_CHUNK = 3
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}
"""Largest accepted difference of logits, as a share of their spread."""


def refuse_unsupported(config: Any) -> str:
    """The architecture's name. Raises Fault 4 if its rows could not be rolled back or paged."""
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if kind is None:
        raise StartupError(
            4, f"{config.model_type} is not supported: it is no causal language model"
        )
    kind = kind[0] if isinstance(kind, (tuple, list)) else kind
    name: str = kind.__name__
    if reason := _unsupported_reason(kind, config):
        raise StartupError(4, f"{name} is not supported: {reason}")
    return name


def _unsupported_reason(kind: Any, config: Any) -> str | None:
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    text = config.get_text_config()
    layers = set(getattr(text, "layer_types", None) or ())
    if getattr(kind, "_is_stateful", False) or any(
        layer.startswith(_RECURRENT_LAYERS) for layer in layers
    ):
        return "its recurrent state cannot be rolled back"
    if not getattr(kind, "_supports_attention_backend", False):
        return "it does not use the attention interface"
    if other := sorted(layers - _ATTENTION_LAYERS):
        return f"its layers of type {', '.join(other)} cannot be paged"
    return None


def max_positions(config: Any, name: str) -> int:
    """Most tokens of a row: all that the model knows positions of, unless those depend on others.

    A rotary embedding of type longrope has two sets of frequencies. transformers chooses one for
    the whole forward by its last position, so one long row would turn the keys of all others.
    Within the length that the model was first trained for there is no choice.
    """
    longest: int = config.max_position_embeddings
    rope: Any = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    for kind in kinds:
        if kind.get("rope_type") == "longrope":
            longest = min(longest, kind["original_max_position_embeddings"])
    if longest < config.max_position_embeddings:
        _log.warning(
            "%s serves %d of its %d positions: beyond them its longrope would let rows change"
            " each other",
            *(name, longest, config.max_position_embeddings),
        )
    return longest


def verify_logits(model: LoadedModel) -> None:
    """Compare packed, paged logits with transformers' own.

    Raises Fault 4 where they differ: an attention that looks ahead, positions of the model's own
    making, a bias in the mask. All ranks compare alike.
    """
    _refuse_hidden_window(model)
    ours = _packed_logits(model).float()
    try:
        with _local_key_value_groups(model):
            theirs = _reference_logits(model).float()
    except torch.OutOfMemoryError:
        raise
    except Exception as fault:
        line = str(fault).strip().split("\n")[0]
        raise StartupError(
            4, f"{model.name} is not supported: it does not run as it is ({line})"
        ) from fault
    error = _relative_error(ours, theirs)
    if not error <= _TOLERANCE[model.dtype]:
        raise StartupError(
            4,
            f"{model.name} is not supported: its paged logits differ from transformers' own"
            f" by {error:.2g} of their spread",
        )


def _relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Of the median token: root mean square of the difference over the spread of its logits.

    Not the largest, since in half precision a rounding may choose another expert for a token.
    """
    error = (ours - theirs).pow(2).mean(dim=-1).sqrt() / theirs.std(dim=-1).clamp(min=1e-6)
    return error.median().item()


def _refuse_hidden_window(model: LoadedModel) -> None:
    """A window that only a mask would tell is lost, since no mask is built."""
    text: Any = model.module.config.get_text_config()  # type: ignore[union-attr, operator]
    window = getattr(text, "sliding_window", None)
    layers = getattr(text, "layer_types", None)
    if not window or (layers and "sliding_attention" not in layers):
        return
    if all(rule.window != window for rule in _record_attention(model).params.values()):
        raise StartupError(
            4, f"{model.name} is not supported: its attention is not told its window"
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
    """Inside, transformers' attention repeats keys as often as this rank's cut asks for.

    It divides the heads of the whole model, which is wrong where ranks share key/value heads.
    """
    heard = _record_attention(model)
    own = model.module.modules()
    parts: list[Any] = [part for part in own if hasattr(part, "num_key_value_groups")]
    before = [part.num_key_value_groups for part in parts]
    try:
        for part in parts:
            part.num_key_value_groups = heard.group_sizes[part.layer_idx]
        yield
    finally:
        for part, groups in zip(parts, before, strict=True):
            part.num_key_value_groups = groups


def _record_attention(model: LoadedModel) -> AttentionProbe:
    """What the layers ask of attention for one token."""
    zero = torch.zeros(1, 1, dtype=torch.int64, device=model.device)
    heard = AttentionProbe()
    with torch.inference_mode(), use_layout(heard):
        model.module(input_ids=zero, position_ids=zero, use_cache=False)
    return heard


def _reference_logits(model: LoadedModel) -> Tensor:
    module: Any = model.module
    ids = torch.tensor([_PROBE_TOKENS], device=model.device)
    module.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            logits: Tensor = module(input_ids=ids, use_cache=False).logits[0]
    finally:
        module.set_attn_implementation(IMPLEMENTATION)
    return logits
