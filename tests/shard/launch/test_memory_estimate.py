"""The memory that a rank needs, compared with what is free."""

from __future__ import annotations

import os

import pytest

from shard.errors import StartupError
from shard.launch import memory_estimate as estimate


def test_ranks_without_gpus_share_the_memory_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_free_device_bytes", lambda: None)
    monkeypatch.setattr(os, "sysconf", {"SC_AVPHYS_PAGES": 10, "SC_PAGE_SIZE": 100}.__getitem__)
    assert estimate.estimate_memory(50, 3, 2) == estimate.MemoryEstimate(50, 3, 500)


def test_a_rank_has_the_memory_of_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_free_device_bytes", lambda: 5000)
    assert estimate.estimate_memory(50, 3, 2) == estimate.MemoryEstimate(50, 3, 5000)


def test_a_model_that_does_not_fit_is_refused_with_numbers() -> None:
    estimate.MemoryEstimate(weight_bytes=50, kv_bytes_per_token=1, free_bytes=100).check(50)
    with pytest.raises(StartupError, match="lower `--max-batch-total-tokens` to at most 50"):
        estimate.MemoryEstimate(weight_bytes=50, kv_bytes_per_token=1, free_bytes=100).check(51)
    with pytest.raises(StartupError, match="raise `--num-shard`"):
        estimate.MemoryEstimate(weight_bytes=100, kv_bytes_per_token=1, free_bytes=100).check(None)
