"""A scaled model has transformers' logits, for rows as long as the factor allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.engine_parts import make_parts
from shard.errors import StartupError
from shard.loading.load import load
from shard.loading.partition import TensorParallelRank
from shard.loading.rope_scaling import RopeScaling
from shard.model.fused_llama import FusedLlama
from shard.model.packed_model import PackedModel
from shard.preflight import model_check
from shard.wire.protocol import Sampling
from tests.support import tiny
from tests.support.driver import ENGINE_PLANS, DrivePlan, drive, engine_specs

Model = Callable[..., str]
TRAINED, FACTOR = 128, 2.0
IDS = tuple(torch.randint(3, 90, (256,), generator=torch.Generator().manual_seed(3)).tolist())


def transformers_logits(path: str, length: int, **rope: Any) -> Tensor:
    """The logits of the first tokens, by transformers with `rope` in the model's configuration."""
    config = AutoConfig.from_pretrained(path)
    config.rope_parameters = {**config.rope_parameters, **rope}
    module: Any = AutoModelForCausalLM.from_pretrained(path, config=config, dtype=torch.float32)
    with torch.inference_mode():
        logits: Tensor = module(input_ids=torch.tensor([IDS[:length]])).logits[0]
    return logits


def served(path: str, kind: str, fuse: bool) -> PackedModel:
    cpu, ranks = torch.device("cpu"), TensorParallelRank(0, 1)
    loaded = load(path, None, cpu, ranks, lambda *_: None, RopeScaling(kind, FACTOR))
    assert loaded.max_length == TRAINED * FACTOR
    packed = PackedModel(loaded, 16, fuse=fuse)
    assert isinstance(packed.forward, FusedLlama) == fuse
    return packed


def packed_logits(packed: PackedModel, length: int) -> Tensor:
    """The logits of the first tokens, in two chunks."""
    row = CachedRow(0, list(IDS), len(IDS), 1, True, Sampling(), pages=list(range(16)))
    cuts = ((0, 50), (50, length))
    spans = [TokenSpan(row, start, IDS[start:stop], stop - start) for start, stop in cuts]
    return torch.cat([packed.logits([span]).clone() for span in spans])


@pytest.mark.parametrize("fuse", [True, False], ids=["fused", "transformers' forward"])
@pytest.mark.parametrize(
    ("kind", "length"), [("linear", 256), ("linear", 90), ("dynamic", 256)], ids=str
)
def test_the_logits_are_those_of_transformers_with_the_same_scaling(
    model: Model, kind: str, length: int, fuse: bool
) -> None:
    path = model("llama")
    wanted = transformers_logits(path, length, rope_type=kind, factor=FACTOR)
    found = packed_logits(served(path, kind, fuse), length)
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-3)
    unscaled = transformers_logits(path, length)
    assert (unscaled - wanted).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["linear", "dynamic"])
def test_rows_beyond_the_trained_length_do_not_change_each_other(model: Model, kind: str) -> None:
    models = model("llama"), model("llama", 1)
    scaled = tiny.unmeasured_engine(tiny.config(*models, rope_scaling=kind, rope_factor=FACTOR))
    assert scaled.max_length == TRAINED * FACTOR
    first, *others = engine_specs(Sampling())
    long = replace(first, prompt=IDS[:150])
    alone = drive(scaled, [long, *others], DrivePlan(batch=1))
    for plan in ENGINE_PLANS.values():
        assert drive(scaled, [long, *others], plan) == alone


@pytest.mark.parametrize(
    ("flags", "length"),
    [({"rope_factor": 1.5}, 192), ({"rope_scaling": "linear"}, 128), ({}, 128)],
    ids=["a factor", "a kind", "neither"],
)
def test_the_length_grows_by_the_factor(model: Model, flags: dict[str, Any], length: int) -> None:
    config = tiny.config(model("llama"), **flags)
    assert model_check.check(config, ()).max_length == length
    assert make_parts(config, lambda *_: None).max_length == length


def test_the_kind_is_linear_and_the_factor_1_unless_set() -> None:
    config = tiny.config("m")
    assert RopeScaling.from_config(config) is None
    assert RopeScaling.from_config(replace(config, rope_factor=3.0)) == RopeScaling("linear", 3.0)
    dynamic = replace(config, rope_scaling="dynamic")
    assert RopeScaling.from_config(dynamic) == RopeScaling("dynamic", 1.0)


def test_the_draft_model_keeps_its_length(model: Model) -> None:
    config = tiny.config(model("llama"), model("gpt2"), rope_factor=FACTOR)
    assert model_check.check(config, ()).max_length == TRAINED * FACTOR


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gpt2", "GPT2LMHeadModel has no rotary embedding"),
        ("falcon-alibi", "FalconForCausalLM has no rotary embedding"),
        ("phi3-longrope", "is not plain, but of type longrope"),
        ("gemma3", "is not plain, but of type one per type of layer"),
    ],
)
@pytest.mark.parametrize("check", [model_check.check, None], ids=["check", "start"])
def test_a_model_that_cannot_be_scaled_is_refused_in_one_line(
    model: Model, name: str, text: str, check: Callable[..., object] | None
) -> None:
    config = tiny.config(model(name), rope_factor=FACTOR)
    with pytest.raises(StartupError, match=text) as fault:
        check(config, ()) if check else make_parts(config, lambda *_: None)
    assert fault.value.code == 2
