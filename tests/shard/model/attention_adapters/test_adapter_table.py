"""Architectures whose attention is adapted emit transformers' tokens, whatever the plan."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.llama4 import Llama4Config, Llama4ForConditionalGeneration

from shard.attention.interface import IMPLEMENTATION
from shard.errors import StartupError
from shard.loading.partition import TensorParallelRank, partitions
from shard.model.attention_adapters.adapter_table import (
    build_implementation,
    install_adapter,
    load_adapter,
    transformers_attention,
)
from shard.wire.protocol import Sampling
from tests.support import tiny
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.reference import choose_greedily, generate_greedily
from tests.support.tiny import ADAPTED, VOCABULARY, engine

Model = Callable[..., str]
DIVERSE = Sampling(repetition_penalty=8.0)
"""The penalty makes greedy tokens differ from each other, so that equal tokens say something."""
SPECS = [
    RowSpec(tuple(range(5, 25)), 24),
    *(
        RowSpec(tuple((7 * row + at * at) % VOCABULARY for at in range(3 + 5 * row)), 80, DIVERSE)
        for row in range(2)
    ),
]
PLANS = {
    "alone": DrivePlan(batch=1),
    "together, in chunks": DrivePlan(draft=3, chunk=9),
    "scattered, in chunks": DrivePlan(draft_lengths=(0, 2, 5), chunk=4, scattered=True),
}
UNSHARDED = ("falcon", "stablelm", "gptj", "gpt-neo", "bloom", "mpt")


@pytest.mark.parametrize("name", ADAPTED)
def test_an_adapted_architecture_emits_the_tokens_that_transformers_chooses(
    model: Model, name: str
) -> None:
    path = model(name)
    emitted = drive(engine(path, model("llama", 1)), SPECS, PLANS["scattered, in chunks"])
    assert len({token for tokens in emitted for token in tokens}) >= 64
    chosen = partial(choose_greedily, path)
    assert emitted == [*map(chosen, SPECS, emitted)]


@pytest.mark.nightly
@pytest.mark.parametrize("name", ADAPTED)
def test_an_adapted_architecture_emits_what_transformers_generates(model: Model, name: str) -> None:
    path = model(name)
    expected = [generate_greedily(path, spec) for spec in SPECS]
    served = engine(path, model("llama", 1))
    for plan in PLANS.values():
        assert drive(served, SPECS, plan) == expected


def test_the_text_part_of_a_checkpoint_with_images_is_served(tmp_path: Path) -> None:
    vision = {
        **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"intermediate_size": 32, "vision_output_dim": 16, "image_size": 28, "patch_size": 14},
        **{"projector_input_dim": 16, "projector_output_dim": 16},
    }
    torch.manual_seed(0)
    whole: Any = Llama4ForConditionalGeneration(
        Llama4Config(text_config=tiny.LLAMA4, vision_config=vision)
    )
    for parameter in whole.parameters():
        parameter.data.mul_(3)
    whole.save_pretrained(tmp_path)
    ids = torch.tensor([SPECS[1].prompt])
    generated = whole.eval().generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=SPECS[1].max_new,
        do_sample=False,
        repetition_penalty=DIVERSE.repetition_penalty,
    )
    expected = generated[0, len(SPECS[1].prompt) :].tolist()
    assert len(set(expected)) > 40
    assert drive(engine(str(tmp_path)), [SPECS[1]], DrivePlan()) == [expected]


@pytest.mark.parametrize("name", ["falcon", "gptj", "gpt-neo", "bloom", "mpt", "llama4", "lfm2"])
def test_transformers_attention_is_restored_inside_the_block_only(name: str) -> None:
    config: Any = tiny.CONFIGS[name]()
    module: Any = AutoModelForCausalLM.from_config(
        config, attn_implementation=build_implementation(config)
    ).eval()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 13]])
    with torch.inference_mode():
        own = module(input_ids=ids, use_cache=False).logits
        install_adapter(module)
        assert module.config._attn_implementation == IMPLEMENTATION
        with transformers_attention(module):
            assert torch.equal(module(input_ids=ids, use_cache=False).logits, own)
    adapter = load_adapter(config.model_type)
    assert adapter is not None
    parts: list[Any] = [part for part in module.modules() if isinstance(part, adapter.attention)]
    convolutions = getattr(config, "layer_types", None) or []
    assert len(parts) == (convolutions.count("conv") or config.num_hidden_layers)
    assert all(part.forward.__func__ is adapter.forward for part in parts)


@pytest.mark.parametrize("name", UNSHARDED)
def test_an_architecture_without_a_plan_is_refused_for_several_shards(name: str) -> None:
    config: Any = tiny.CONFIGS[name]()
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(config)
    with pytest.raises(StartupError, match=f"{name} has no tensor-parallel plan; serve it with"):
        partitions(module, name, TensorParallelRank(0, 2))
