"""The product's claim on a device, and what replayed graphs have to do with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from shard.batch.packing import TokenSpan, pack_spans
from shard.batch.rows import CachedRow
from shard.engine import Engine
from shard.model.cuda_graphs import ForwardGraphs
from shard.wire.protocol import ReportOptions, Sampling
from tests.support.driver import ENGINE_PLANS, DrivePlan, RowSpec, drive, engine_specs
from tests.support.gpu import DRAFT, TARGET, Record, engine, milliseconds
from tests.support.pairs import Model
from tests.support.samplings import GREEDY, SAMPLED
from tests.support.tiny import PAGED

pytestmark = pytest.mark.gpu


def graphs(engine: Engine) -> ForwardGraphs:
    run = engine._target._run_packed
    assert isinstance(run, ForwardGraphs)
    return run


@pytest.mark.parametrize("name", PAGED)
def test_greedy_tokens_in_float32_are_those_of_transformers(model: Model, name: str) -> None:
    wanted = engine_specs(GREEDY)
    loaded: Any = AutoModelForCausalLM.from_pretrained(model(name), dtype=torch.float32)
    reference = loaded.cuda().eval()
    for ask, found in zip(
        wanted, drive(engine(model(name), None), wanted, DrivePlan()), strict=True
    ):
        ids = torch.tensor([ask.prompt], device="cuda")
        mask = torch.ones_like(ids)
        out = reference.generate(
            ids, attention_mask=mask, max_new_tokens=ask.max_new, do_sample=False
        )
        assert found == out[0, len(ask.prompt) :].tolist()


@pytest.mark.parametrize("name", PAGED)
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("plan", ENGINE_PLANS.values(), ids=ENGINE_PLANS)
def test_tokens_in_float32_do_not_depend_on_the_plan(
    model: Model, name: str, sampling: Sampling, plan: DrivePlan
) -> None:
    served = engine(model(name), model("llama", 1))
    plain = drive(served, engine_specs(sampling), DrivePlan(batch=1))
    assert drive(served, engine_specs(sampling), plan) == plain
    assert graphs(served).recorded


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_replayed_graph_gives_the_logits_of_an_eager_forward(model: Model, dtype: str) -> None:
    served = engine(model("llama"), None, dtype)
    drive(served, [RowSpec((5, 6, 7)), RowSpec((8, 9))], DrivePlan(draft=0))
    run = graphs(served)
    rows = [
        CachedRow(id, [5, 6, 7, id], 3, 9, False, GREEDY, ReportOptions(), None, [id])
        for id in (1, 2)
    ]
    prefill = [TokenSpan(row, 0, row.tokens[:3], 1) for row in rows]
    decode = [TokenSpan(row, 3, row.tokens[3:], 1) for row in rows]
    served._target.logits(prefill)
    packed = pack_spans(decode, served._target.cache, torch.device("cpu"))
    with torch.inference_mode():
        eager = run._eager(packed).clone()
        assert run._bucket_for(packed.layout.segments) in run.recorded
        torch.testing.assert_close(run(packed), eager)


def test_what_a_graph_saves(record: Record) -> None:
    served = engine(TARGET, None, "bfloat16")
    drive(served, [RowSpec((5, 6, 7))], DrivePlan())
    run, row = (
        graphs(served),
        CachedRow(1, [5, 6], 2, 9, False, GREEDY, ReportOptions(), None, [1], 1),
    )
    packed = pack_spans([TokenSpan(row, 1, [6], 1)], served._target.cache, torch.device("cpu"))
    layers = len(served._target.facts.shapes)
    with torch.inference_mode():
        assert run._bucket_for(packed.layout.segments) in run.recorded
        record("ms per layer, eager", milliseconds(lambda: run._eager(packed)) / layers)
        record("ms per layer, replayed", milliseconds(lambda: run(packed)) / layers)


def test_how_often_bfloat16_tokens_equal_the_plain_ones(record: Record) -> None:
    """No claim: with bfloat16 a verification may round unlike a decode. Float32 must be equal."""
    wanted = [RowSpec(tuple(range(5 * n, 5 * n + 20)), 64) for n in range(1, 17)]
    for dtype in ("float32", "bfloat16"):
        served = engine(TARGET, DRAFT, dtype, resident=True)
        plain = drive(served, wanted, DrivePlan(batch=1))
        drafted = drive(served, wanted, DrivePlan(draft=5))
        same = sum(one == two for one, two in zip(plain, drafted, strict=True))
        record(f"rows equal with drafts, {dtype}, of {len(wanted)}", same)
        if dtype == "float32":
            assert same == len(wanted)
