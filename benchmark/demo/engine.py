"""The shipped engine on the demo pair, in this process, on one thread.

Rule: decides the configuration that benchmarks share; knows nothing of what they measure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from shard.config import ShardConfig
from shard.engine import Engine, start_engine

DEMO = Path(__file__).resolve().parents[2] / "shard" / "demo"


def load(target: str | None = None, draft: str | None = None, **changes: Any) -> Engine:
    """The engine of the folders `target` and `draft`; without a target, of the demo pair."""
    if target is None:
        target, draft = str(DEMO / "target"), str(DEMO / "draft")
    fields: dict[str, Any] = {
        "model_path": target,
        "model_id": Path(target).name,
        "draft_path": draft,
        "rank": 0,
        "world": 1,
        "socket": "",
        "rendezvous": "",
        "speculate": 5 if draft else 0,
        "dtype": "float32",
        "max_rows": 8,
        "max_total_tokens": None,
        "max_batch_total_tokens": None,
    }
    engine = start_engine(ShardConfig(**{**fields, **changes}), lambda text, percent: None)
    torch.set_num_threads(1)
    return engine
