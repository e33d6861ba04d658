"""A bias that is folded into the keys gives the scores to which it would be added."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shard.model.attention_adapters.alibi import fold_key_bias

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
TOLERANCE = 4e-6
"""Relative to the largest bias, or absolute below 1: float16 has a smallest number, 6e-8, and the
query's constant multiplies its rounding error by 64."""


@given(
    heads=st.integers(1, 9),
    size=st.sampled_from([4, 8, 13, 64, 128]),
    first=st.integers(0, 70_000),
    slope=st.floats(2**-8, 0.9),
    scale=st.floats(0.05, 1.0),
    dtype=st.sampled_from(DTYPES),
)
def test_scaled_products_contain_the_bias(
    heads: int, size: int, first: int, slope: float, scale: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(first)
    query, key = torch.randn(2, 1, heads, 3, size).to(dtype)
    bias = slope / torch.arange(1, heads + 1)[:, None] * (first + torch.arange(3))
    wide_query, wide_key = fold_key_bias(query, key, bias, scale)
    assert wide_query.shape == wide_key.shape
    assert wide_key.shape[-1] % 8 == 0
    assert wide_key.dtype == dtype
    expected = query.double() @ key.double().mT * scale + bias.double()[None, :, None]
    scores = wide_query.double() @ wide_key.double().mT * scale
    allowed = TOLERANCE * max(1.0, float(bias.abs().max()))
    assert float((scores - expected).abs().max()) <= allowed


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_head_is_extended_to_the_next_multiple_of_eight(dtype: torch.dtype) -> None:
    query, key = torch.ones(2, 1, 2, 3, 64, dtype=dtype)
    wide_query, wide_key = fold_key_bias(query, key, torch.ones(2, 3), 0.125)
    assert wide_query.shape == wide_key.shape == (1, 2, 3, 72)
    assert torch.equal(wide_key[..., :64], key)
    assert torch.equal(wide_query[..., :64], query)
