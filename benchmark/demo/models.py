"""The shapes of the demo models, and how they are written to a folder.

Rule: decides the two architectures and what a bundle holds; must not know the data or the
training. The weights are stored in bfloat16, half the size, and read back in any dtype.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from benchmark.demo.tokenizer import END_ID, PAD_ID, VOCABULARY, save_tokenizer, write_json

CONTEXT = 2048


def target_config() -> LlamaConfig:
    """About 5.4 million weights: six layers of width 256, two query heads per key head."""
    return _llama_config(hidden_size=256, intermediate_size=688, num_hidden_layers=6, heads=8)


def draft_config() -> LlamaConfig:
    """About 0.6 million weights: two layers of width 96, two query heads per key head."""
    return _llama_config(hidden_size=96, intermediate_size=256, num_hidden_layers=2, heads=4)


def _llama_config(
    *, hidden_size: int, intermediate_size: int, num_hidden_layers: int, heads: int
) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
        use_cache=True,
    )


def save_bundle(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write configuration, bfloat16 weights and tokenizer into `folder`, which is created."""
    folder.mkdir(parents=True, exist_ok=True)
    config = LlamaConfig(**{**model.config.to_dict(), "dtype": "bfloat16"})
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    write_json(folder / "generation_config.json", {"eos_token_id": END_ID, "pad_token_id": PAD_ID})
    tied = "lm_head.weight"
    weights = {
        name: weight.detach().to(torch.bfloat16).contiguous()
        for name, weight in model.state_dict().items()
        if name != tied
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    save_tokenizer(tokenizer, folder)


def load_model(folder: Path) -> LlamaForCausalLM:
    """The model of a bundle in float32, ready for evaluation."""
    model: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.train(False)
    return model


def weight_count(model: torch.nn.Module) -> int:
    """The number of weights, tied ones counted once."""
    return sum(weight.numel() for weight in model.parameters())
