"""What fits into a device's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shard.model import memory
from tests.support import tiny


@pytest.mark.parametrize(
    ("fraction", "left"), [(1.0, 60), (0.75, 35), (0.5, 10), (0.25, 0)], ids=str
)
def test_the_memory_fraction_is_taken_off_what_is_free(fraction: float, left: int) -> None:
    assert memory.usable_bytes(60, 100, fraction) == left


def test_the_largest_prefill_is_tried_before_memory_is_counted(model: Callable[..., str]) -> None:
    loaded = tiny.engine(model("llama"))._target.facts
    module: Any = loaded.module
    seen: list[tuple[int, ...]] = []
    head = module.get_output_embeddings()
    body = module.get_input_embeddings()
    hooks = [
        body.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[:2]))),
        head.register_forward_hook(lambda _m, _i, out: seen.append(tuple(out.shape[:2]))),
    ]
    memory.warm_up(loaded, tokens=300, logits=16)  # longer than the model's own context
    for hook in hooks:
        hook.remove()
    assert seen == [(1, 300), (1, 16)]
