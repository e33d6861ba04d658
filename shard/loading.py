"""From a model folder to a `Loaded` model on this rank: find the class, refuse, read, cut, probe.

Everything that can stop a start is a `Fault` with one line. What cannot roll back (recurrent or
linear-attention state) and what does not attend through transformers' interface is refused by
its architecture's name.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils.logging import disable_progress_bar

from shard.attention import IMPLEMENTATION
from shard.errors import Fault
from shard.model import Loaded, probe
from shard.tensor_parallel import Ranks, cut

_RECURRENT_LAYERS = ("mamba", "linear_attention", "conv", "recurrent", "rwkv")


def load(path: str, dtype: str | None, device: torch.device, ranks: Ranks) -> Loaded:
    """The model in folder `path`, cut for `ranks`. Raises Fault 4 for what cannot be served."""
    disable_progress_bar()  # type: ignore[no-untyped-call]  # the launcher shows progress
    config = _config(path)
    name = refuse_unsupported(config)
    module = _read(path, name, _precision(dtype, config, device)).to(device)
    cut(module, name, ranks)
    text = config.get_text_config()
    return Loaded(
        name=name,
        module=module,
        shapes=probe(module, name, device),
        dtype=next(module.parameters()).dtype,
        device=device,
        vocab_size=text.vocab_size,
        max_length=text.max_position_embeddings,
        eos=_eos(path, config),
    )


def refuse_unsupported(config: Any) -> str:
    """The architecture's name. Raises Fault 4 if its rows could not be rolled back or paged."""
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if kind is None:
        raise Fault(4, f"{config.model_type} is not supported: it is no causal language model")
    name: str = kind.__name__
    layers = getattr(config.get_text_config(), "layer_types", None) or ()
    recurrent = [layer for layer in layers if layer.startswith(_RECURRENT_LAYERS)]
    if getattr(kind, "_is_stateful", False) or recurrent:
        raise Fault(4, f"{name} is not supported: its recurrent state cannot be rolled back")
    if not getattr(kind, "_supports_attention_backend", False):
        raise Fault(4, f"{name} is not supported: it does not use the attention interface")
    return name


def _config(path: str) -> Any:
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as fault:
        raise Fault(4, f"config.json cannot be read: {_first_line(fault)}") from fault


def _read(path: str, name: str, dtype: torch.dtype) -> nn.Module:
    try:
        module: nn.Module = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, attn_implementation=IMPLEMENTATION, use_safetensors=True
        )
    except Exception as fault:
        raise Fault(4, f"the weights of {name} cannot be read: {_first_line(fault)}") from fault
    return module.eval().requires_grad_(False)


def _precision(dtype: str | None, config: Any, device: torch.device) -> torch.dtype:
    """float32 on CPU, where exactness is worth most; the checkpoint's own on CUDA."""
    if dtype is not None:
        return {
            "float16": torch.float16,
            "bfloat16": torch.bfloat16,
            "float32": torch.float32,
        }[dtype]
    if device.type == "cpu" or config.dtype is None:
        return torch.float32
    own: torch.dtype = config.dtype
    return own


def _eos(path: str, config: Any) -> frozenset[int]:
    """Every end-of-sequence id: the generation config's, else the model config's."""
    ids = config.get_text_config().eos_token_id
    with contextlib.suppress(OSError):
        ids = GenerationConfig.from_pretrained(path).eos_token_id or ids
    return frozenset(ids if isinstance(ids, list) else [] if ids is None else [ids])


def _first_line(fault: Exception) -> str:
    return str(fault).strip().split("\n")[0]
