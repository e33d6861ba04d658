"""The fused forward computes what transformers' own does, and is used only where it does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from shard.model.forward import (
    MAX_RELATIVE_DIFFERENCE,
    choose_forward,
    relative_difference,
    transformers_forward,
)
from shard.model.fused_llama import FusedLlama
from tests.support import tiny
from tests.support.fused import FUSED, build, shapes_of


@pytest.mark.parametrize("name", FUSED)
def test_the_fused_logits_are_those_of_transformers(name: str) -> None:
    module, shapes = build(name)
    assert (
        relative_difference(
            transformers_forward(module), FusedLlama(module, FUSED[name]), module, shapes
        )
        < 1e-5
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": True, "mlp_bias": True},
        {"tie_word_embeddings": True},
        {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}},
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 500.0,
                "original_max_position_embeddings": 32,
            }
        },
    ],
    ids=["biases", "tied head", "linear rope", "yarn rope"],
)
def test_variants_of_llama_are_fused_too(changes: dict[str, Any]) -> None:
    module, shapes = build("llama", **changes)
    fused = FusedLlama(module, "LlamaForCausalLM")
    assert relative_difference(transformers_forward(module), fused, module, shapes) < 1e-5


def test_a_fused_model_gives_its_layers_up() -> None:
    module, shapes = build("llama")
    forward = choose_forward(module, "LlamaForCausalLM", shapes)
    assert isinstance(forward, FusedLlama)
    assert sum(parameter.numel() for parameter in module.parameters()) < 2 * 101 * 32


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("gpt2", {}, "not among the architectures"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
         "depends on more than the position"),
    ],
)  # fmt: skip
def test_what_is_not_fused_is_told_with_the_reason(
    name: str, changes: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    module, shapes = build(name, **changes)
    with caplog.at_level(logging.INFO):
        forward = choose_forward(module, FUSED.get(name, "GPT2LMHeadModel"), shapes)
    assert not isinstance(forward, FusedLlama)
    assert reason in caplog.text


def test_a_fused_forward_that_disagrees_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module, shapes = build("llama")
    wanted = relative_difference(
        transformers_forward(module), transformers_forward(module), module, shapes
    )
    assert wanted == 0

    def wrong(self: FusedLlama, *arguments: Any) -> torch.Tensor:
        return transformers_forward(module)(*arguments) * (1 + 2 * MAX_RELATIVE_DIFFERENCE)

    monkeypatch.setattr(FusedLlama, "__call__", wrong)
    assert not isinstance(choose_forward(module, "LlamaForCausalLM", shapes), FusedLlama)
    assert "the fused one differs by" in caplog.text


def test_half_precision_keeps_the_forward_of_transformers(caplog: pytest.LogCaptureFixture) -> None:
    module, _ = build("llama")
    module = module.to(torch.bfloat16)
    with caplog.at_level(logging.INFO):
        forward = choose_forward(module, "LlamaForCausalLM", shapes_of(module, ""))
    assert not isinstance(forward, FusedLlama)
    assert "float32" in caplog.text


Model = Callable[..., str]


def test_every_architecture_that_is_fused_serves_fused(model: Model) -> None:
    for name in FUSED:
        assert isinstance(tiny.engine(model(name))._target.forward, FusedLlama)
