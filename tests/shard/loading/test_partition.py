"""What a rank keeps: the ranks' parts are the whole again, and heads are never split."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from shard.errors import StartupError
from shard.loading.partition import WHOLE, Partition, TensorParallelRank, partitions
from tests.support import tiny


def empty(name: str, **changes: Any) -> nn.Module:
    config = tiny.CONFIGS[name]()
    for key, value in changes.items():
        setattr(config, key, value)
    with torch.device("meta"):
        module: nn.Module = AutoModelForCausalLM.from_config(config)
        return module


def part(cut: Partition, whole: Tensor) -> Tensor:
    out = torch.empty(cut.shape(tuple(whole.shape)), dtype=whole.dtype)
    cut.copy_to(whole, out)
    return out


def rejoined(cut: Partition, parts: list[Tensor]) -> Tensor:
    """The whole of which `parts` are equal cuts: span by span, rank after rank."""
    if cut.zeroed or not cut.spans:
        return torch.stack(parts).sum(0)
    pieces = [part.chunk(len(cut.spans), dim=cut.dim) for part in parts]
    return torch.cat([piece for row in zip(*pieces, strict=True) for piece in row], dim=cut.dim)


@pytest.mark.parametrize("name", [*tiny.SHARDED, "llama", "qwen2"])
def test_the_parts_of_all_ranks_are_the_whole(name: str) -> None:
    module = empty(name)
    ranks = [partitions(module, name, TensorParallelRank(rank, 2)) for rank in (0, 1)]
    assert ranks[0].keys() == ranks[1].keys()
    shapes = dict(module.named_parameters(remove_duplicate=False))
    for path in ranks[0]:
        whole = torch.randn(shapes[path].shape)
        parts = [part(rank[path], whole) for rank in ranks]
        assert torch.equal(rejoined(ranks[1][path], parts), whole), path


def test_one_rank_keeps_everything() -> None:
    assert partitions(empty("gpt2"), "gpt2", TensorParallelRank(0, 1)) == {}


def test_sinks_follow_their_heads_and_expert_biases_are_added_once() -> None:
    own = partitions(empty("gpt-oss"), "gpt-oss", TensorParallelRank(1, 2))
    layer = "model.layers.0."
    assert own[layer + "self_attn.sinks"] == Partition(0, ((2, 4),))
    assert own[layer + "self_attn.o_proj.bias"].zeroed
    assert own[layer + "mlp.experts.down_proj_bias"].zeroed
    assert own[layer + "mlp.experts.gate_up_proj"] == Partition(2, ((48, 96),))


def test_gate_and_up_of_packed_experts_are_each_divided() -> None:
    own = partitions(empty("mixtral"), "mixtral", TensorParallelRank(1, 2))
    assert own["model.layers.0.mlp.experts.gate_up_proj"] == Partition(1, ((24, 48), (72, 96)))
    assert own["model.layers.0.mlp.experts.down_proj"] == Partition(2, ((24, 48),))


def test_more_ranks_than_key_heads_share_them() -> None:
    key = "model.layers.0.self_attn.k_proj.weight"
    spans = [
        partitions(empty("llama"), "llama", TensorParallelRank(rank, 4))[key].spans
        for rank in range(4)
    ]
    assert spans == [((0, 8),), ((0, 8),), ((8, 16),), ((8, 16),)]


def test_heads_that_do_not_divide_are_refused_by_name() -> None:
    with pytest.raises(StartupError, match=r"2 heads of .*k_proj cannot be divided by 3") as caught:
        partitions(empty("llama", num_attention_heads=3), "llama", TensorParallelRank(0, 3))
    assert caught.value.code == 2


def test_an_unsupported_style_is_refused_by_name() -> None:
    module: Any = empty("llama")
    module.tp_plan["model.layers.*.mlp.up_proj"] = "sequence_parallel"
    with pytest.raises(StartupError, match=r"style sequence_parallel of .*up_proj is not supp"):
        partitions(module, "LlamaForCausalLM", TensorParallelRank(0, 2))


def test_a_scalar_and_a_whole_tensor_are_copied() -> None:
    assert part(WHOLE, torch.tensor(3.0)) == 3.0
    assert torch.equal(part(WHOLE, torch.arange(6).reshape(2, 3)), torch.arange(6).reshape(2, 3))
