"""The paged kernel is attention by its definition, whatever the pages, rows, rule and dtype.

On a machine without a GPU the kernels run in Triton's interpreter.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import product

import pytest
import torch

from tests.support.nightly import thinned
from tests.support.paged import RULES, TOLERANCE, AttentionCase, PagedPool, max_difference
from tests.support.paths import ROOT

pytest.importorskip("triton", reason="Triton has no build for this platform")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize(
    ("group", "dim", "dtype"),
    thinned(list(product((1, 2, 4, 8), (64, 128))), [(dtype,) for dtype in DTYPES], 3),
)
def test_grouped_heads_of_any_size_attend_exactly(group: int, dim: int, dtype: torch.dtype) -> None:
    kv_heads = 2 if group < 8 else 1
    assert max_difference(AttentionCase(group * kv_heads, kv_heads, dim, dtype)) < TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("rule", "dtype"), thinned([(rule,) for rule in RULES], [(dtype,) for dtype in DTYPES], 3)
)
def test_every_rule_of_a_layer_is_kept(rule: str, dtype: torch.dtype) -> None:
    assert max_difference(replace(RULES[rule], dtype=dtype)) < TOLERANCE[dtype]


@pytest.mark.parametrize("splits", [1, 2, 8])
def test_the_number_of_splits_changes_nothing(splits: int) -> None:
    assert max_difference(AttentionCase(splits=splits)) < TOLERANCE[torch.float32]


@pytest.mark.parametrize(
    "case",
    [
        AttentionCase(counts=(1, 2, 3, 4, 5, 6), lengths=(16, 17, 3, 64, 65, 6), splits=2),
        AttentionCase(heads=16, kv_heads=1, counts=(6, 1), lengths=(40, 9)),  # more than one tile
        AttentionCase(heads=6, kv_heads=2, dim=80),
        AttentionCase(heads=2, kv_heads=1, dim=8),
    ],
    ids=["1 to 6 tokens", "two tiles", "odd sizes", "small heads"],
)
def test_ragged_rows_and_uneven_sizes_attend_exactly(case: AttentionCase) -> None:
    assert max_difference(case) < TOLERANCE[torch.float32]


def test_rows_that_ask_for_nothing_leave_the_output_alone() -> None:
    pool = PagedPool(AttentionCase(counts=(2, 3), lengths=(40, 40), splits=1))
    whole = pool.kernel()
    pool.counts[1] = pool.lengths[1] = 0
    part = pool.kernel()
    assert torch.equal(part[:2], whole[:2])
    assert not part[2:].any()


def test_the_kernels_compile_for_devices_that_are_not_here() -> None:
    settings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = [sys.executable, "-m", "tests.support.compiled_kernels"]
    found = subprocess.run(program, cwd=ROOT, env=settings, capture_output=True, check=True)
    shared = json.loads(found.stdout)
    assert len(shared) == 4
    assert max(shared.values()) <= 99 << 10, "what the smallest GPU since Ampere has"
