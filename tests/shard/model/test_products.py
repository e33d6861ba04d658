"""Every kernel computes the same product, and the plan follows the measured times."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from shard.loading.measured_times import MeasuredTimes
from shard.model import fused_llama, linear_layers, product_times, products
from shard.model.forward import (
    choose_forward,
    probe_logits,
    relative_difference,
    transformers_forward,
)
from shard.model.fused_llama import FusedLlama
from shard.model.product_times import choose_plan, time_and_choose
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
    kernel_names,
    usable_layouts,
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
    outputs=st.integers(1, 220),
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
    for user in (fused_llama, linear_layers):
        monkeypatch.setattr(user, "time_and_choose", lambda *_: UNIFORM[name])
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


@pytest.mark.parametrize(("one_token", "layout"), [(31.0, PACKED), (34.0, PACKED), (60.0, COLUMNS)])
def test_a_layout_for_many_tokens_must_not_cost_much_for_one(one_token: float, layout: str) -> None:
    measured = times(
        columns=(30.0, 50.0, 64.0, 73.0, 120.0),
        linear=(35.0, 50.0, 33.0, 78.0, 125.0),
        transposed=(33.0, 52.0, 36.0, 70.0, 125.0),
        packed=(one_token, 30.0, 35.0, 45.0, 95.0),
    )
    assert choose_plan(measured, list(LAYOUTS)).layout == layout


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

    assert time_and_choose([torch.ones(8, 4)], MeasuredTimes(None, across_ranks)) == PLAIN
    assert calls[-1] == 128, "ranks agree on the size"


def test_ranks_choose_by_the_same_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a rank measures itself has no influence: here another rank is always slower."""
    slowest = MeasuredTimes(None, lambda _: 1e-3)
    monkeypatch.setattr(product_times, "TIMED_BYTES", 0)
    plans = {time_and_choose([torch.randn(64, 32)] * 3, slowest) for _ in range(3)}
    assert len(plans) == 1


def test_a_large_head_that_is_the_embedding_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_layers, "MAX_COPIED_HEAD_BYTES", 0)
    module, shapes = build("llama", tie_word_embeddings=True)
    module.tie_weights()  # type: ignore[operator]
    fused = FusedLlama(module, "LlamaForCausalLM")
    head = fused._head
    assert isinstance(head, Linear)
    assert head.weight.data_ptr() == module.get_input_embeddings().weight.data_ptr()  # type: ignore[operator]
    assert relative_difference(transformers_forward(module), fused, module, shapes) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["linear", "transposed", "blocks", "widened"])
@pytest.mark.parametrize("block", [1, 130, 1 << 20], ids=["a row", "two rows", "all"])
def test_products_in_half_precision_are_rounded_once(
    name: str, dtype: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "_WIDENED_ELEMENTS", block)
    torch.manual_seed(3)
    x, weight, bias = (torch.randn(*size).to(dtype) for size in ((5, 64), (7, 64), (7,)))
    exact = functional.linear(x.double(), weight.double(), bias.double())
    out = Linear(weight, bias, UNIFORM[name])(x)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=0.02)


def test_kernels_that_the_dtype_lacks_are_not_timed() -> None:
    assert "widened" not in kernel_names(ROWS, torch.float32)
    assert COLUMNS not in usable_layouts(torch.bfloat16)
    assert usable_layouts(torch.float64) == (ROWS,)
    assert "unpacked" in kernel_names(ROWS, torch.float32)
    assert "unpacked" not in kernel_names(ROWS, torch.float64)


@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
@pytest.mark.parametrize("name", ["columns", "transposed", "blocks", "packed"])
@pytest.mark.parametrize("family", ["gemma3", "phi3", "mixtral", "deepseek-v3"])
def test_families_without_a_fused_forward_multiply_as_planned(
    name: str, family: str, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, shapes = build(family, tie_word_embeddings=tied)
    if tied:
        module.tie_weights()  # type: ignore[operator]
    expected = probe_logits(transformers_forward(module), module, shapes)
    monkeypatch.setattr(linear_layers, "time_and_choose", lambda *_: UNIFORM[name])
    forward = choose_forward(module, family, shapes)
    found = probe_logits(forward, module, shapes)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert "forward" in vars(module.get_output_embeddings())  # type: ignore[operator]


@pytest.mark.parametrize("shape", [(1, 0), (0,), (0, 3), (1, 1), (5,), (2, 3)])
@pytest.mark.parametrize("name", ["columns", "transposed", "blocks", "packed"])
def test_a_replaced_layer_keeps_the_shape_of_inputs_that_may_be_empty(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of a prompt has no token whose logits are wanted."""
    module, _ = build("gemma3")
    head: Any = module.get_output_embeddings()  # type: ignore[operator]
    x = torch.randn(*shape, head.in_features)
    monkeypatch.setattr(linear_layers, "time_and_choose", lambda *_: UNIFORM[name])
    with torch.inference_mode():
        expected = head(x)
        linear_layers.replace_products(module, product_times.ONE_RANK)
        assert "forward" in vars(head)
        torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-4)


def test_products_that_change_the_logits_are_taken_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module, shapes = build("gemma3")
    expected = probe_logits(transformers_forward(module), module, shapes)
    wrong = products.Kernel(COLUMNS, lambda x, weight, bias: 2 * torch.mm(x, weight))
    monkeypatch.setitem(KERNELS, "wrong", wrong)
    plan = ProductPlan(COLUMNS, ("wrong",) * len(TIMED_TOKENS))
    monkeypatch.setattr(linear_layers, "time_and_choose", lambda *_: plan)
    forward = choose_forward(module, "gemma3", shapes)
    assert "gemma3 keeps its own products: the logits differ by" in caplog.text
    assert torch.equal(probe_logits(forward, module, shapes), expected)


def test_a_product_runs_between_the_hooks_of_its_layer() -> None:
    part = torch.nn.Linear(6, 4)
    part.register_forward_pre_hook(lambda _module, inputs: (inputs[0].chunk(2, dim=-1)[1],))
    part.register_forward_hook(lambda _module, _inputs, output: output.mul_(3))
    x = torch.randn(5, 12)
    with torch.inference_mode():
        torch.testing.assert_close(linear_layers.planned(part, UNIFORM["packed"])(x), part(x))


def test_a_round_of_threads_that_hinder_each_other_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On two threads every kernel but the first takes much longer than on one."""

    def seconds(name: str, tokens: int, *_: object) -> float:
        kernel = list(KERNELS).index(name)
        return 1.0 + kernel if torch.get_num_threads() == 1 else 1e-3 + 1e3 * kernel

    monkeypatch.setattr(product_times, "_time", seconds)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        times = product_times._time_kernels([torch.ones(2, 2)], [COLUMNS, ROWS])
    finally:
        torch.set_num_threads(threads)
    assert times["columns", 1] == 1.0, "no kernel is judged by the unfinished round"
    assert times["transposed", 32] == 3.0


def test_kernels_of_an_earlier_start_are_not_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product_times, "TIMED_BYTES", 0)
    weights = [torch.randn(64, 32)] * 3
    first = MeasuredTimes(None, float)
    plan = time_and_choose(weights, first)
    monkeypatch.setattr(product_times, "_time_kernels", None)
    assert time_and_choose(weights, MeasuredTimes(None, float, kept=first.values)) == plan
