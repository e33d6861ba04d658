"""The adapters by `model_type`, and how they are installed in a model that has been built.

Everything else sees a model that calls the paged attention, whether by an adapter or by
transformers' attention interface.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from types import MethodType
from typing import Any

from torch import Tensor

from shard.attention.interface import IMPLEMENTATION
from shard.model.attention_adapters.adapter import AttentionAdapter, with_positions

ADAPTERS: Mapping[str, str] = {
    "falcon": "falcon.ADAPTER",
    "gptj": "gptj.ADAPTER",
    "gpt_neo": "gpt_neo.ADAPTER",
    "bloom": "bloom.ADAPTER",
    "mpt": "mpt.ADAPTER",
    "llama4_text": "llama4.ADAPTER",
    "lfm2": "lfm2.ADAPTER",
    "lfm2_moe": "lfm2.MOE_ADAPTER",
}
"""Module of this package and name of the adapter, by `model_type`. A module imports the model's, so
that it is imported only for such a model."""


def find_adapter(config: Any) -> AttentionAdapter | None:
    """The adapter of models of `config`; None if they call the paged attention by themselves."""
    return load_adapter(config.get_text_config().model_type)


@cache
def load_adapter(model_type: str) -> AttentionAdapter | None:
    """The adapter in the table, whose module is imported; None if there is none."""
    if model_type not in ADAPTERS:
        return None
    module, _, name = ADAPTERS[model_type].partition(".")
    adapter: AttentionAdapter = getattr(import_module(f"{__package__}.{module}"), name)
    return adapter


def build_implementation(config: Any) -> str:
    """The attention implementation with which transformers can build a model of `config`."""
    adapter = find_adapter(config)
    return IMPLEMENTATION if adapter is None else adapter.implementation


def install_adapter(module: Any) -> None:
    """Let `module`, a model of `build_implementation`, attend to paged keys and values."""
    adapter = find_adapter(module.config)
    if adapter is None:
        return
    module.config._attn_implementation = IMPLEMENTATION  # so that it builds no mask
    for part in _attention_modules(module, adapter):
        part.forward = MethodType(adapter.forward, part)


def model_arguments(module: Any, positions: Tensor) -> dict[str, Any]:
    """The arguments of `module` for tokens at `positions` [1, T], besides the tokens."""
    adapter = find_adapter(module.config)
    return with_positions(positions) if adapter is None else adapter.arguments(positions)


@contextmanager
def transformers_attention(module: Any) -> Iterator[None]:
    """Inside, `module` attends as transformers does, to the tokens of its input only."""
    adapter = find_adapter(module.config)
    if adapter is None:
        module.set_attn_implementation("eager")
    else:
        module.config._attn_implementation = adapter.implementation
        for part in _attention_modules(module, adapter):
            del part.forward
    try:
        yield
    finally:
        if adapter is None:
            module.set_attn_implementation(IMPLEMENTATION)
        install_adapter(module)


def _attention_modules(module: Any, adapter: AttentionAdapter) -> list[Any]:
    return [part for part in module.modules() if isinstance(part, adapter.attention)]
