"""Tiny models with random weights, one per architecture, and engines that serve them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.bert import BertConfig
from transformers.models.bloom import BloomConfig
from transformers.models.cohere import CohereConfig
from transformers.models.deepseek_v2 import DeepseekV2Config
from transformers.models.deepseek_v3 import DeepseekV3Config
from transformers.models.diffllama import DiffLlamaConfig
from transformers.models.falcon import FalconConfig
from transformers.models.gemma import GemmaConfig
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.gpt2 import GPT2Config
from transformers.models.gpt_neo import GPTNeoConfig
from transformers.models.gpt_oss import GptOssConfig
from transformers.models.gptj import GPTJConfig
from transformers.models.lfm2 import Lfm2Config
from transformers.models.lfm2_moe import Lfm2MoeConfig
from transformers.models.llama import LlamaConfig
from transformers.models.llama4 import Llama4TextConfig
from transformers.models.mamba import MambaConfig
from transformers.models.mistral import MistralConfig
from transformers.models.mixtral import MixtralConfig
from transformers.models.moshi import MoshiConfig
from transformers.models.mpt import MptConfig
from transformers.models.phi3 import Phi3Config
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config
from transformers.models.qwen3_moe import Qwen3MoeConfig
from transformers.models.stablelm import StableLmConfig

from shard.config import ShardConfig
from shard.engine import Engine, ready_without_costs
from shard.engine_parts import make_parts
from shard.rounds.choose import DeviceRounds
from shard.rounds.model_drafter import ModelDrafter

VOCABULARY = 101
NO_SPECIAL: dict[str, Any] = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": None}
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    **NO_SPECIAL,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 3.0, 9.0, 27.0],
}
EXPERTS: dict[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}
QWEN_EXPERTS: dict[str, Any] = {"head_dim": 8, "moe_intermediate_size": 16}
GPT_OSS: dict[str, Any] = {
    **EXPERTS,
    "head_dim": 8,
    "sliding_window": 7,
    "rope_parameters": ROPE,
}
LATENT: dict[str, Any] = {
    **SHAPE,
    "num_key_value_heads": 4,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 4,
    "n_group": 1,
    "topk_group": 1,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
"""DeepSeek's multi-head latent attention, with experts."""
GPT: dict[str, Any] = {"vocab_size": VOCABULARY, "tie_word_embeddings": False, **NO_SPECIAL}
TIED: dict[str, Any] = {"tie_word_embeddings": True}
FALCON: dict[str, Any] = {
    **GPT,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
MPT: dict[str, Any] = {**GPT, "d_model": 48, "n_layers": 3, "max_seq_len": 128}
LLAMA4: dict[str, Any] = {
    **SHAPE,
    "head_dim": 8,
    "intermediate_size_mlp": 48,
    "num_local_experts": 4,
    "interleave_moe_layer_step": 2,
    "no_rope_layer_interval": 3,
    "attention_chunk_size": 7,
    "floor_scale": 5,
    "attn_scale": 0.4,
}
LFM2: dict[str, Any] = {
    **SHAPE,
    "num_hidden_layers": 4,
    "layer_types": ["conv", "full_attention", "conv", "conv"],
}
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "llama-one-kv": lambda: LlamaConfig(**{**SHAPE, "num_key_value_heads": 1}),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=16),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=7),
    "gemma": lambda: GemmaConfig(**SHAPE, head_dim=8),
    "gemma2": lambda: Gemma2Config(**SHAPE, head_dim=8, sliding_window=7),
    "gemma3": lambda: Gemma3TextConfig(**SHAPE, head_dim=8, sliding_window=7),
    "phi3": lambda: Phi3Config(**SHAPE),
    "phi3-longrope": lambda: Phi3Config(
        **SHAPE, rope_parameters=LONGROPE, original_max_position_embeddings=48
    ),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=128, **NO_SPECIAL
    ),
    "qwen2": lambda: Qwen2Config(**SHAPE, tie_word_embeddings=True),
    "cohere": lambda: CohereConfig(**SHAPE, logit_scale=0.5),
    "mixtral": lambda: MixtralConfig(**SHAPE, **EXPERTS),
    "qwen3-moe": lambda: Qwen3MoeConfig(**{**SHAPE, **EXPERTS, **QWEN_EXPERTS}),
    "gpt-oss": lambda: GptOssConfig(**{**SHAPE, **GPT_OSS}),
    "gpt-oss-wide": lambda: GptOssConfig(**{**SHAPE, **GPT_OSS, "intermediate_size": 64}),
    "bert": lambda: BertConfig(**{**SHAPE, "pad_token_id": 0}),
    "diffllama": lambda: DiffLlamaConfig(**SHAPE),
    "moshi": lambda: MoshiConfig(**{**SHAPE, "ffn_dim": 48, "num_codebooks": 1}, sliding_window=7),
    "falcon": lambda: FalconConfig(**FALCON),
    "falcon-groups": lambda: FalconConfig(
        **{**FALCON, **TIED}, new_decoder_architecture=True, num_kv_heads=2
    ),
    "falcon-alibi": lambda: FalconConfig(
        **{**FALCON, "hidden_size": 64},
        alibi=True,
        multi_query=False,
        parallel_attn=False,
        bias=True,
    ),
    "falcon-alibi-one-kv": lambda: FalconConfig(**FALCON, alibi=True),
    "stablelm": lambda: StableLmConfig(**SHAPE, use_qkv_bias=True),
    "stablelm-norms": lambda: StableLmConfig(
        **SHAPE, qk_layernorm=True, use_parallel_residual=True
    ),
    "gptj": lambda: GPTJConfig(
        **GPT, n_embd=64, n_layer=3, n_head=4, n_positions=128, rotary_dim=8
    ),
    "gptj-whole": lambda: GPTJConfig(
        **GPT, n_embd=32, n_layer=2, n_head=4, n_positions=128, rotary_dim=8
    ),
    "gpt-neo": lambda: GPTNeoConfig(
        **GPT,
        hidden_size=64,
        num_layers=4,
        num_heads=4,
        max_position_embeddings=128,
        attention_types=[[["global", "local"], 2]],
        window_size=7,
    ),
    "bloom": lambda: BloomConfig(**GPT, hidden_size=32, n_layer=3, n_head=4),
    "bloom-six": lambda: BloomConfig(**{**GPT, **TIED}, hidden_size=48, n_layer=3, n_head=6),
    "mpt": lambda: MptConfig(**MPT, n_heads=4),
    "mpt-clipped": lambda: MptConfig(
        **{**MPT, **TIED}, n_heads=6, attn_config={"clip_qkv": 1.0, "softmax_scale": 0.3}
    ),
    "deepseek-v2": lambda: DeepseekV2Config(**{**LATENT, "topk_method": "greedy"}),
    "deepseek-v2-lite": lambda: DeepseekV2Config(**{**LATENT, "q_lora_rank": None}),
    "deepseek-v3": lambda: DeepseekV3Config(**LATENT),
    "deepseek-v3-wide-values": lambda: DeepseekV3Config(**{**LATENT, "v_head_dim": 12}),
    "llama4": lambda: Llama4TextConfig(**LLAMA4),
    "lfm2": lambda: Lfm2Config(**LFM2),
    "lfm2-wide": lambda: Lfm2Config(**LFM2, conv_L_cache=6, conv_bias=True),
    "lfm2-moe": lambda: Lfm2MoeConfig(
        **LFM2,
        moe_intermediate_size=16,
        num_experts=4,
        num_experts_per_tok=2,
        num_dense_layers=1,
    ),
    "mamba": lambda: MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2),
    "llama-wide": lambda: LlamaConfig(**{**SHAPE, "vocab_size": VOCABULARY + 6}),
}
PAGED = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3", "phi3", "gpt2")
ALSO_SERVED = ("cohere", "mixtral", "qwen3-moe", "gpt-oss")
"""Served too: biases, a tied head, scaled logits, experts, sinks."""
ADAPTED = (
    *("falcon", "falcon-groups", "falcon-alibi", "falcon-alibi-one-kv", "stablelm"),
    *("stablelm-norms", "gptj", "gptj-whole", "gpt-neo", "bloom", "bloom-six", "mpt"),
    *("mpt-clipped", "deepseek-v2", "deepseek-v2-lite", "deepseek-v3", "deepseek-v3-wide-values"),
    *("llama4", "lfm2", "lfm2-wide", "lfm2-moe"),
)
"""Served although their attention is not what transformers' attention interface expects."""
LOADED = (*PAGED, *ALSO_SERVED, *ADAPTED)
SHARDED = (
    *("qwen3", "gemma3", "phi3", "mixtral", "qwen3-moe", "gpt-oss"),
    *("deepseek-v2", "deepseek-v3", "llama4", "lfm2-moe"),
)


def save(name: str, folder: Path, seed: int = 0) -> str:
    """Save a model of architecture `name` under `folder`; return its path."""
    return save_model(CONFIGS[name](), folder / f"{name}-{seed}", seed)


def save_model(config: Any, path: Path, seed: int) -> str:
    """Save a model of `config` in `path`; return `path`.

    Larger weights spread its logits; parameters that start as zeros, such as biases, get values.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        parameter.data.mul_(3)
        if not parameter.any():
            parameter.data.normal_(std=0.3)
    model.save_pretrained(path)
    return str(path)


def config(model: str, draft: str | None = None, **changes: Any) -> ShardConfig:
    """One rank that serves `model`."""
    plain = ShardConfig(
        model_path=model,
        model_id="tiny",
        draft_path=draft,
        rank=0,
        world=1,
        socket="",
        rendezvous="",
        speculate=5,
        dtype=None,
        max_rows=16,
        max_total_tokens=None,
        max_batch_total_tokens=None,
    )
    return replace(plain, **changes)


def unmeasured_engine(config: ShardConfig) -> Engine:
    """An engine that announces no costs: the trial Steps of a start take a third of its time.

    It computes on one thread, since models this small lose time to a second one.
    """
    parts = make_parts(config, lambda text, percent: None)
    torch.set_num_threads(1)
    return Engine(parts, ready_without_costs(parts))


@cache
def engine(model: str, draft: str | None = None) -> Engine:
    """The engine that serves `model`; loaded once a session."""
    return unmeasured_engine(config(model, draft))


@cache
def swapping_engine(model: str, draft: str | None, drafter: str | None = None) -> Engine:
    """The same with a host pool; without a draft or a drafter it drafts by prompt lookup."""
    return unmeasured_engine(config(model, draft, max_swap_tokens=1024, drafter=drafter))


def model_drafter(engine: Engine) -> ModelDrafter:
    """The drafter of an engine that has a draft model."""
    assert isinstance(engine._drafter, ModelDrafter)
    return engine._drafter


def device_rounds(engine: Engine) -> DeviceRounds:
    """The device rounds of an engine that has them."""
    assert engine._device_rounds is not None
    return engine._device_rounds
