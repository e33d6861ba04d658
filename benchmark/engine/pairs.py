"""The pairs of models that engines are compared on, with the prompts for each.

Rule: decides models and prompts; must not know who runs them. The wide pair has random weights:
twelve layers of width 256, of which all but the first two are damped, and a draft of those two,
so that the draft often agrees without training.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from benchmark.demo.prompts import prompts as demo_prompts

DEMO = Path(__file__).parents[2] / "shard" / "demo"
VOCABULARY = 4096
DEPTH, DRAFT_DEPTH = 12, 2
DAMPING = 0.03
"""Factor on what the layers above the draft's add to the residual stream."""


@dataclass(frozen=True)
class ModelPair:
    """A target and a draft in folders, and prompts as token ids."""

    name: str
    target: str
    draft: str
    prompts: tuple[tuple[int, ...], ...]
    draft_length: int
    """Drafts per round; more if they are cheap compared with the target."""


def demo_pair(count: int, max_prompt: int) -> ModelPair:
    """The bundled pair with `count` prompts that were held out of its training."""
    tokenizer = Tokenizer.from_file(str(DEMO / "target" / "tokenizer.json"))
    texts = demo_prompts(None, 4 * count, seed=11, held_out=True)
    ids = [tuple(tokenizer.encode(prompt.text).ids) for prompt in texts]
    short = [prompt for prompt in ids if len(prompt) <= max_prompt]
    return ModelPair("demo", str(DEMO / "target"), str(DEMO / "draft"), tuple(short[:count]), 3)


def wide_pair(folder: Path, count: int) -> ModelPair:
    """A random pair of width 256, written to `folder`, with `count` random prompts."""
    torch.manual_seed(3)
    target = LlamaForCausalLM(_config(DEPTH))
    for index, layer in enumerate(target.model.layers):
        if index >= DRAFT_DEPTH:
            layer.self_attn.o_proj.weight.data.mul_(DAMPING)
            layer.mlp.down_proj.weight.data.mul_(DAMPING)
    draft = LlamaForCausalLM(_config(DRAFT_DEPTH))
    draft.load_state_dict(target.state_dict(), strict=False)
    target.save_pretrained(folder / "target")
    draft.save_pretrained(folder / "draft")
    rng = random.Random(3)  # noqa: S311 - no secret is drawn
    sizes = [24 + 8 * (index % 8) for index in range(count)]
    ids = tuple(tuple(rng.randrange(VOCABULARY) for _ in range(size)) for size in sizes)
    return ModelPair("wide", str(folder / "target"), str(folder / "draft"), ids, 5)


def _config(layers: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        initializer_range=0.06,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
