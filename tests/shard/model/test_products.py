"""Every kernel computes the same product, and the plan follows the measured times."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from shard.model import fused_llama, products
from shard.model.forward import relative_difference, transformers_forward
from shard.model.fused_llama import FusedLlama
from shard.model.products import (
    COLUMNS,
    KERNELS,
    LAYOUTS,
    PACKED,
    PLAIN,
    ROWS,
    TIMED_TOKENS,
    Linear,
    ProductPlan,
    choose_plan,
    time_and_choose,
)
from tests.support.fused import FUSED, build

UNIFORM = {
    name: ProductPlan(kernel.layout, (name,) * len(TIMED_TOKENS))
    for name, kernel in KERNELS.items()
}


@pytest.mark.parametrize("name", KERNELS)
@given(
    tokens=st.integers(0, 70),
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 70),
    has_bias=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_every_kernel_computes_a_linear_layer(
    name: str, tokens: int, inputs: int, outputs: int, has_bias: bool
) -> None:
    torch.manual_seed(tokens)
    x, weight = torch.randn(tokens, inputs), torch.randn(outputs, inputs)
    bias = torch.randn(outputs) if has_bias else None
    with torch.inference_mode():
        out = Linear(weight, bias, UNIFORM[name])(x)
    torch.testing.assert_close(out, functional.linear(x, weight, bias), rtol=1e-4, atol=1e-4)
    assert out.is_contiguous()


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("family", FUSED)
def test_every_kernel_serves_every_fused_family(
    name: str, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, shapes = build(family)
    monkeypatch.setattr(fused_llama, "time_and_choose", lambda *_: UNIFORM[name])
    fused = FusedLlama(module, FUSED[family])
    with torch.inference_mode():
        assert relative_difference(transformers_forward(module), fused, module, shapes) < 1e-5


def times(**seconds: float | tuple[float, ...]) -> dict[tuple[str, int], float]:
    """Times by kernel: one for all numbers of tokens, or one for each."""
    return {
        (name, tokens): each if isinstance(each, float) else each[index]
        for name, each in seconds.items()
        for index, tokens in enumerate(TIMED_TOKENS)
    }


def test_the_fastest_kernel_of_a_layout_is_used_for_each_number_of_tokens() -> None:
    rows = times(linear=(1.0, 3.0, 4.0, 5.0, 6.0), transposed=(2.0, 2.0, 2.0, 6.0, 7.0))
    plan = choose_plan(rows | times(columns=10.0, packed=10.0), list(LAYOUTS))
    assert plan.layout == ROWS
    chosen = [plan.kernel(tokens) for tokens in (1, 2, 3, 5, 6, 16, 32, 500)]
    assert chosen == ["linear", *["transposed"] * 3, *["linear"] * 4]


@pytest.mark.parametrize(
    ("packed", "layout"),
    [(0.5, PACKED), (0.94, PACKED), (0.96, COLUMNS), (1.0, COLUMNS), (2.0, COLUMNS)],
)
def test_a_layout_replaces_a_plainer_one_only_for_a_clear_gain(packed: float, layout: str) -> None:
    measured = times(columns=1.0, linear=1.0, transposed=1.0, packed=packed)
    assert choose_plan(measured, list(LAYOUTS)).layout == layout


def test_what_is_slow_for_one_token_but_fast_for_many_is_judged_by_all() -> None:
    measured = times(
        columns=(0.35, 0.58, 1.7, 1.1, 2.0),
        linear=(0.54, 2.0, 1.3, 1.9, 2.1),
        transposed=(0.49, 0.65, 0.69, 1.9, 2.2),
        packed=(0.54, 0.55, 0.68, 0.9, 2.7),
    )
    assert choose_plan(measured, list(LAYOUTS)).layout == PACKED
    assert choose_plan(measured, [ROWS]).kernels == ("transposed",) * 3 + ("linear",) * 2


def test_the_transposed_product_is_chosen_where_it_is_the_fastest_for_a_few_tokens() -> None:
    measured = times(
        columns=(16.0, 26.0, 67.0, 88.0, 88.0),
        linear=(24.0, 41.0, 56.0, 57.0, 62.0),
        transposed=(24.0, 18.0, 22.0, 32.0, 41.0),
    )
    plan = choose_plan(measured, [COLUMNS, ROWS])
    assert (plan.layout, set(plan.kernels[1:])) == (ROWS, {"transposed"})


def test_small_weights_are_multiplied_plainly_and_not_timed() -> None:
    calls: list[float] = []

    def across_ranks(value: float) -> float:
        calls.append(value)
        return value

    assert time_and_choose([torch.ones(8, 4)], across_ranks) == PLAIN
    assert calls == [128], "ranks agree on the size"


def test_ranks_choose_by_the_same_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a rank measures itself has no influence: here `across_ranks` is the slowest rank."""
    monkeypatch.setattr(products, "TIMED_BYTES", 0)
    plans = {time_and_choose([torch.randn(64, 32)] * 3, lambda _: 1e-3) for _ in range(3)}
    assert len(plans) == 1


def test_a_large_head_that_is_the_embedding_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_llama, "MAX_COPIED_HEAD_BYTES", 0)
    module, shapes = build("llama", tie_word_embeddings=True)
    module.tie_weights()  # type: ignore[operator]
    fused = FusedLlama(module, "LlamaForCausalLM")
    head = fused._head
    assert isinstance(head, Linear)
    assert head._weight.data_ptr() == module.get_input_embeddings().weight.data_ptr()  # type: ignore[operator]
    assert relative_difference(transformers_forward(module), fused, module, shapes) < 1e-5
