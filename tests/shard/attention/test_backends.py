"""The planned layout of a device computes what the reference layout computes."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from shard.attention.backends import (
    SdpaAttention,
    TritonPagedAttention,
    choose_backend,
    flash_operator,
    has_prefill_arguments,
)
from shard.attention.device_layout import split_count
from shard.attention.interface import Layout
from shard.attention.kv_cache import PAGE_SIZE, KvCache, LayerShape, slot_spans
from shard.attention.paged_layout import PagedLayout
from shard.attention.sdpa_padded import Segment
from shard.attention.sdpa_row import AttentionParams
from tests.support import paged

pytest.importorskip("triton", reason="Triton has no build for this platform")
HEADS, KV_HEADS, DIM = 4, 2, 16
PLAIN = AttentionParams(DIM**-0.5, None, None, None)
RULES = {
    "plain": PLAIN,
    "window": AttentionParams(DIM**-0.5, 9, None, None),
    "chunk": AttentionParams(DIM**-0.5, None, None, None, 24),
    "softcap": AttentionParams(0.1, None, 3.0, None),
    "sinks": AttentionParams(0.1, None, None, torch.linspace(-1, 1, HEADS)),
}
# tokens fed, length, pages: a verification, a long prefill chunk in two runs, a decode
ROWS = ((4, 21, [7, 3]), (40, 50, [4, 5, 9, 10]), (1, 33, [8, 2, 1]))


def layout(dtype: torch.dtype) -> PagedLayout:
    """The rows in a pool of random keys and values."""
    cache = KvCache([LayerShape(KV_HEADS, DIM)], 10, dtype, paged.DEVICE)
    cache.pool(0).copy_(torch.randn(11 * PAGE_SIZE, 2 * KV_HEADS, DIM))
    segments, slots, start = [], [], 0
    for count, length, pages in ROWS:
        own = slot_spans(pages, length)
        slots += [slot for span in own for slot in range(span.start, span.stop)][-count:]
        segments.append(Segment(start, start + count, length, own))
        start += count
    return PagedLayout(cache, torch.tensor(slots, device=paged.DEVICE), segments)


def run(layout: Layout, rule: AttentionParams, dtype: torch.dtype) -> Tensor:
    total = sum(row[0] for row in ROWS)
    torch.manual_seed(1)
    fresh = torch.randn(total, 2 * KV_HEADS, DIM).to(paged.DEVICE, dtype)
    query = torch.randn(total, HEADS, DIM).to(paged.DEVICE, dtype)
    return layout.attend_layer(0, fresh, query, rule)


class Flash:
    """Attends as torch's operator does, by its own arguments; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cum_seq_q: Tensor,
        cum_seq_k: Tensor,
        max_q: int,
        max_k: int,
        dropout_p: float,
        is_causal: bool,
        return_debug_mask: bool,
        *,
        scale: float,
        window_size_left: int | None,
        window_size_right: int | None,
    ) -> Sequence[Any]:
        self.calls += 1
        assert cum_seq_q.tolist() == [0, max_q] == [0, len(query)]
        assert cum_seq_k.tolist() == [0, max_k] == [0, len(key)]
        assert is_causal
        assert query.stride(-1) == key.stride(-1) == value.stride(-1) == 1
        own = torch.arange(max_k - max_q, max_k)[:, None]
        seen = torch.arange(max_k)[None]
        allowed = seen <= own
        if window_size_left is not None:
            assert window_size_right == 0
            allowed &= seen >= own - window_size_left
        group = query.shape[1] // key.shape[1]
        scores = torch.einsum("nhd,lhd->hnl", query, key.repeat_interleave(group, 1)).float()
        weights = (scores * scale).masked_fill(~allowed, float("-inf")).softmax(-1)
        return (torch.einsum("hnl,lhd->nhd", weights.half(), value.repeat_interleave(group, 1)),)


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_short_rows_by_kernel_and_long_ones_by_sdpa_equal_the_reference(
    rule: AttentionParams,
) -> None:
    reference = layout(torch.float32)
    planned = TritonPagedAttention(paged.DEVICE, 8, None).plan(reference)
    wanted = run(reference, rule, torch.float32)
    torch.testing.assert_close(run(planned, rule, torch.float32), wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "calls"), [("plain", 1), ("window", 1), ("chunk", 0), ("softcap", 0), ("sinks", 0)]
)
def test_prefill_goes_through_flash_where_it_can_express_the_rule(name: str, calls: int) -> None:
    flash = Flash()
    reference = layout(torch.float16)
    planned = TritonPagedAttention(paged.DEVICE, 8, flash).plan(reference)
    wanted = run(reference, RULES[name], torch.float16)
    found = run(planned, RULES[name], torch.float16)
    torch.testing.assert_close(found, wanted, atol=4e-3, rtol=0)
    assert flash.calls == calls


@pytest.mark.parametrize("count", [1, 2, 3, 6, 20])
def test_recent_values_are_recalled_by_tables_as_by_spans(count: int) -> None:
    reference = layout(torch.float32)
    planned = TritonPagedAttention(paged.DEVICE, 8, None).plan(reference)
    total = sum(row[0] for row in ROWS)
    fresh = torch.randn(total, 2 * KV_HEADS, DIM).to(paged.DEVICE)
    wanted = reference.recall_layer(0, fresh, count)
    assert wanted.shape == (total, count, 2 * KV_HEADS, DIM)
    assert torch.equal(wanted[:, -1], fresh)
    assert torch.equal(planned.recall_layer(0, fresh, count), wanted)


def test_before_the_first_token_of_a_row_there_are_zeros() -> None:
    cache = KvCache([LayerShape(1, 4)], 3, torch.float32, torch.device("cpu"))
    first, second = Segment(0, 2, 2, (slice(16, 18),)), Segment(2, 3, 3, (slice(32, 35),))
    cache.write(0, torch.tensor([32, 33]), torch.full((2, 2, 4), 7.0))
    fresh = torch.arange(1.0, 4.0)[:, None, None].expand(3, 2, 4)
    found = PagedLayout(cache, torch.tensor([16, 17, 34]), [first, second]).recall_layer(
        0, fresh, 4
    )
    assert found[..., 0, 0].tolist() == [[0, 0, 0, 1], [0, 0, 1, 2], [0, 7, 7, 3]]


def test_float32_prefill_never_goes_through_flash() -> None:
    flash = Flash()
    run(
        TritonPagedAttention(paged.DEVICE, 8, flash).plan(layout(torch.float32)),
        PLAIN,
        torch.float32,
    )
    assert flash.calls == 0


def test_the_cpu_attends_row_by_row() -> None:
    assert isinstance(choose_backend(torch.device("cpu")), SdpaAttention)


def test_this_torch_has_a_flash_operator_that_suffices() -> None:
    assert flash_operator() is not None


def test_an_operator_without_a_window_does_not_suffice() -> None:
    assert not has_prefill_arguments(
        {"cum_seq_q", "cum_seq_k", "max_q", "max_k", "is_causal", "scale"}
    )


@pytest.mark.parametrize(("programs", "parts"), [(1, 32), (8, 32), (66, 4), (264, 1), (4096, 1)])
def test_keys_are_split_until_the_processors_are_busy(programs: int, parts: int) -> None:
    assert split_count(132, programs) == parts


def test_the_shard_can_be_imported_without_triton() -> None:
    folder = Path(__file__).resolve().parents[3] / "shard"
    for path in folder.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom) and "triton" not in path.name:
                assert "triton" not in ast.unparse(node)
