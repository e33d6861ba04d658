"""What is loaded serves transformers' tokens; what cannot be served is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import torch

from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.engine import start_engine
from shard.errors import StartupError
from shard.loading.load import load
from shard.loading.partition import TensorParallelRank
from shard.model import memory
from shard.model.packed_model import LoadedModel
from shard.wire.protocol import Sampling
from tests.support import tiny
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.reference import generate_greedily
from tests.support.tiny import engine

Model = Callable[..., str]


def start(model: str, draft: str | None = None, **changes: object) -> StartupError:
    with pytest.raises(StartupError) as caught:
        start_engine(tiny.config(model, draft, **changes), lambda text, percent: None)
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


def test_truncated_weights_are_an_error_of_one_line(model: Model, tmp_path: Path) -> None:
    whole = Path(model("llama"))
    for file in whole.iterdir():
        data = file.read_bytes()
        part = data[: len(data) // 2] if file.suffix == ".safetensors" else data
        (tmp_path / file.name).write_bytes(part)
    fault = start(str(tmp_path))
    assert fault.code == 4
    assert "model.safetensors" in fault.text


def test_models_that_do_not_fit_the_device_are_an_error_of_one_line(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.\nAnd so on")

    monkeypatch.setattr("shard.engine_parts.load", refuse)
    fault = start(model("llama"))
    assert (fault.code, fault.text) == (
        6,
        "Not enough memory to load the target; raise `--num-shard`",
    )


def test_the_error_of_a_prefill_that_does_not_fit_the_device_names_the_flag(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = replace(engine(model("llama"))._target.facts, device=torch.device("cuda"))

    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("shard.model.memory.warm_up", refuse)
    with pytest.raises(StartupError) as caught:
        memory.pool_pages(tiny.config(model("llama"), prefill_tokens=4096), loaded, None)
    assert (caught.value.code, caught.value.text) == (
        6,
        "Not enough memory to handle 4096 prefill tokens."
        " You need to decrease `--max-batch-prefill-tokens`",
    )


def test_the_error_of_a_pool_too_small_for_one_request_names_the_flags(model: Model) -> None:
    fault = start(model("llama"), max_total_tokens=120, max_batch_total_tokens=64)
    assert fault.code == 6
    assert fault.text.startswith("Not enough memory to handle max_total_tokens=120: ")
    assert "--max-batch-total-tokens" in fault.text


@pytest.mark.parametrize("name", tiny.ALSO_SERVED)
def test_tokens_are_those_of_transformers_with_and_without_drafts(model: Model, name: str) -> None:
    path = model(name)
    ask = RowSpec(tuple(range(5, 25)), 24)
    reference = generate_greedily(path, ask)
    assert drive(engine(path), [ask], DrivePlan()) == [reference]
    assert drive(engine(path, model("llama", 1)), [ask], DrivePlan(draft=3, chunk=9)) == [reference]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([9, 11], {9, 11}),
        (9, {9}),
        (0, {0}),
        ([0], {0}),
        ([5, 0, 5], {0, 5}),
        (tiny.VOCABULARY, set()),
        ([3, 10**9], {3}),
        ([-1, 100], {100}),
    ],
)
def test_every_end_of_sequence_id_in_the_vocabulary_ends_a_row(
    model: Model, tmp_path: Path, ids: object, expected: set[int]
) -> None:
    folder = copytree(model("llama"), tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    assert loaded_from(folder).eos == expected


def test_ids_of_a_configuration_outside_the_vocabulary_cost_one_warning_each(
    model: Model, tmp_path: Path
) -> None:
    folder = copytree(model("llama"), tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 500]}))
    config = json.loads((folder / "config.json").read_text())
    config |= {"pad_token_id": tiny.VOCABULARY, "bos_token_id": 10**6}
    (folder / "config.json").write_text(json.dumps(config))
    loaded = loaded_from(folder)
    assert loaded.eos == {7}
    fields = [warning.split(" is ignored")[0] for warning in loaded.warnings]
    assert fields == [
        "`bos_token_id` 1000000 in config.json",
        "`pad_token_id` 101 in config.json",
        "`eos_token_id` 500 in generation_config.json",
    ]


def loaded_from(folder: Path) -> LoadedModel:
    ranks = TensorParallelRank(0, 1)
    return load(str(folder), None, torch.device("cpu"), ranks, lambda done, total: None)


@pytest.mark.parametrize(("dtype", "near"), [("bfloat16", 0.15), ("float16", 0.02)])
@pytest.mark.parametrize(
    "name",
    [
        *("llama", "gemma2", "gpt-oss", "mixtral", "bloom", "falcon-alibi", "gptj", "mpt"),
        *("deepseek-v3", "llama4", "lfm2"),
    ],
)
def test_half_precision_serves_with_logits_near_those_of_float32(
    model: Model, name: str, dtype: str, near: float
) -> None:
    half = tiny.unmeasured_engine(tiny.config(model(name), dtype=dtype))
    assert half.ready().dtype == dtype
    torch.set_num_threads(1)
    ask = RowSpec(tuple(range(5, 25)), 16)
    assert [len(tokens) for tokens in drive(half, [ask], DrivePlan())] == [16]
    row = CachedRow(0, list(ask.prompt), 20, 1, True, Sampling(), pages=[1, 2])
    feed = TokenSpan(row, 0, ask.prompt, 20)
    exact = engine(model(name))._target.logits([feed])
    rough = half._target.logits([feed]).float()
    error = (rough - exact).pow(2).mean(dim=-1).sqrt() / exact.std(dim=-1)
    assert error.median() < near  # a rounding may choose another expert for one token


def test_progress_is_reported_to_the_launcher(model: Model) -> None:
    told: list[tuple[str, int]] = []
    start_engine(tiny.config(model("llama")), lambda text, percent: told.append((text, percent)))
    read = [(text, percent) for text, percent in told if text.startswith("loading the target")]
    assert read[-1] == ("loading the target: 0 of 0 MB", 60)
    assert [percent for _, percent in told] == sorted(percent for _, percent in told)
