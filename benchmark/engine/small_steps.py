"""What a Step of a few tokens costs, relative to one of a single token.

Rule: decides what is timed; must not know how products are computed. The model has the shape of
SmolLM2-135M, so that reading its weights is most of a Step: the real one if it lies in `.models`,
else random weights of that shape. A forward of a few tokens reads the same weights as one of a
single token, so the ratios say what drafting and batching cost. Steps are those of the engine, with
drafts of zeros, in turn; a figure is the median over rounds of a ratio of the fastest Steps.
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmark.engine.driver import cpu_config
from shard.engine import Engine, choose_threads, ready_without_costs
from shard.engine_parts import make_parts
from shard.warmup.step_costs import ZeroDrafter, decode_seconds

REAL_MODEL = Path(__file__).parents[2] / ".models" / "smollm2"
ROWS, VERIFIED_TOKENS = 8, 5
STEPS = {"step1": (1, 0), "step8": (ROWS, 0), "verify5": (1, VERIFIED_TOKENS - 1)}
"""Rows and draft length of what is timed."""
_ROW_TOKENS = 64


def measure(folder: Path, rounds: int) -> dict[str, float | str]:
    """Time `rounds` rounds; a random model is written to `folder`. Return the figures."""
    engine = _engine(model_path(folder))
    seconds: dict[str, list[float]] = {name: [] for name in STEPS}
    for _ in range(rounds):
        for name, (rows, draft) in STEPS.items():
            seconds[name].append(decode_seconds(engine, rows, draft))
    return {
        "engine.small_steps_model": (
            REAL_MODEL.name if REAL_MODEL.is_dir() else "random weights of its shape"
        ),
        "engine.step1_seconds": round(statistics.median(seconds["step1"]), 4),
        "engine.step8_over_step1": _ratio(seconds, "step8"),
        "engine.verify5_over_step1": _ratio(seconds, "verify5"),
    }


def model_path(folder: Path) -> str:
    """The model, or one of its shape, which is written to `folder`."""
    return str(REAL_MODEL) if REAL_MODEL.is_dir() else _save_random_model(folder)


def _ratio(seconds: dict[str, list[float]], name: str) -> float:
    pairs = zip(seconds[name], seconds["step1"], strict=True)
    return round(statistics.median(more / one for more, one in pairs), 3)


def _engine(model: str) -> Engine:
    config = cpu_config(model, None, VERIFIED_TOKENS - 1, _ROW_TOKENS, ROWS)
    parts = replace(make_parts(config, lambda text, percent: None), drafter=ZeroDrafter())
    return Engine(parts, ready_without_costs(parts), choose_threads(parts))


def _save_random_model(folder: Path) -> str:
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    path = folder / "smollm2-shape"
    LlamaForCausalLM(config).bfloat16().save_pretrained(path)
    return str(path)
