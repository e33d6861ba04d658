"""What cannot be served is refused by name, before a request can meet it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shard.engine import Engine
from shard.errors import Fault
from tests.shard import tiny

Model = Callable[..., str]


def start(model: str, draft: str | None = None, **changes: object) -> Fault:
    with pytest.raises(Fault) as caught:
        Engine(tiny.config(model, draft, **changes), lambda text, percent: None)
    assert "\n" not in caught.value.text
    return caught.value


def test_a_recurrent_model_is_refused_by_name(model: Model) -> None:
    fault = start(model("mamba"))
    assert fault.code == 4
    assert "MambaForCausalLM" in fault.text
    assert "recurrent state" in fault.text


def test_a_draft_of_another_vocabulary_is_refused_with_both_sizes(model: Model) -> None:
    fault = start(model("llama"), model("llama-wide"))
    assert fault.code == 4
    assert "107" in fault.text
    assert "101" in fault.text


def test_truncated_weights_are_one_line(model: Model, tmp_path: Path) -> None:
    whole = Path(model("llama"))
    for file in whole.iterdir():
        data = file.read_bytes()
        part = data[: len(data) // 2] if file.suffix == ".safetensors" else data
        (tmp_path / file.name).write_bytes(part)
    fault = start(str(tmp_path))
    assert fault.code == 4
    assert "model.safetensors" in fault.text


def test_a_pool_too_small_for_one_request_names_the_flags(model: Model) -> None:
    fault = start(model("llama"), max_total_tokens=128, max_batch_total_tokens=64)
    assert fault.code == 6
    assert "--max-batch-total-tokens" in fault.text
