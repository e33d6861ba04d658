"""Recorded forwards give the tokens of eager ones.

Graphs are played back in Python, and attention is its plain definition: the kernels, which have
tests of their own, would take minutes in the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from shard.attention import backends
from shard.attention.kv_cache import KvCache, LayerShape
from shard.batch.packing import TokenSpan, pack_spans
from shard.batch.rows import CachedRow
from shard.engine import Engine, start_engine
from shard.model import cuda_graphs
from shard.model import graph_recorder as recorder
from shard.model.cuda_graphs import Bucket, GraphInputs, find_bucket, largest_bucket
from shard.model.graph_recorder import Graph
from shard.rounds.device_rows import SamplingKind
from shard.rounds.round_graphs import RoundGraphs, RoundShape
from shard.rounds.round_result import FLAG_ALIVE
from shard.wire.protocol import ReportOptions, Sampling
from tests.support import paged, tiny
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.samplings import GREEDY, SAMPLED

pytest.importorskip("triton", reason="Triton has no build for this platform")
Model = Callable[..., str]
ASKS = [RowSpec((5, 6, 7), 7), RowSpec((9, 8), 7, replace(SAMPLED, seed=3))]
MOST = Bucket(2, 4)


class ReplayedGraph:
    """A graph that records by remembering the work, and replays by doing it."""

    replays = 0

    def record(self, work: Callable[[], None]) -> None:
        work()
        self._work = work

    def replay(self) -> None:
        ReplayedGraph.replays += 1
        self._work()


class UnrecordableGraph(ReplayedGraph):
    """A graph that cannot be recorded."""

    def record(self, work: Callable[[], None]) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")


def engine(
    monkeypatch: pytest.MonkeyPatch,
    graph: type[Graph],
    target: str,
    draft: str,
    resident: bool = False,
) -> Engine:
    """An engine with a device's backend and graphs, on this machine."""
    device = tiny.engine(target)._target.facts.device
    paging = backends.TritonPagedAttention(device, 8, None)
    monkeypatch.setattr(backends, "choose_backend", lambda _: paging)
    monkeypatch.setattr("shard.attention.paged_triton.paged_attention", paged.reference_attention)
    monkeypatch.setattr(recorder, "cuda_graph_factory", lambda: graph)
    config = tiny.config(target, draft, speculate=3, max_rows=2, resident=resident)
    return start_engine(config, lambda text, percent: None)


def runner(engine: Engine) -> cuda_graphs.ForwardGraphs:
    run = engine._target._run_packed
    assert isinstance(run, cuda_graphs.ForwardGraphs)
    return run


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_replayed_rounds_give_the_tokens_of_the_plain_engine(
    monkeypatch: pytest.MonkeyPatch, model: Model, name: str
) -> None:
    replays = ReplayedGraph.replays
    graphed = engine(monkeypatch, ReplayedGraph, model(name), model("llama", 1))
    found = drive(graphed, ASKS, DrivePlan(draft=3, scattered=True))
    assert found == drive(tiny.engine(model(name)), ASKS, DrivePlan())
    assert ReplayedGraph.replays > replays
    assert runner(graphed).recorded[0] == MOST  # the first recording takes the memory of all


def rounds(engine: Engine) -> RoundGraphs:
    assert engine._device_rounds is not None
    run = engine._device_rounds._run
    assert isinstance(run, RoundGraphs)
    return run


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_whole_rounds_are_replayed(
    monkeypatch: pytest.MonkeyPatch, model: Model, name: str
) -> None:
    graphed = engine(monkeypatch, ReplayedGraph, model(name), model("llama", 1), resident=True)
    plain = tiny.engine(model(name))
    three = [*ASKS, replace(ASKS[0], max_new=3)]
    for given in (GREEDY, Sampling(temperature=0.9), Sampling(temperature=0.9, top_p=0.8)):
        asks = [replace(ask, sampling=replace(given, seed=id)) for id, ask in enumerate(three)]
        wanted = drive(plain, asks, DrivePlan())
        for plan in (
            DrivePlan(draft=3, scattered=True),
            DrivePlan(draft=3, batch=1),
            DrivePlan(draft_lengths=(2, 0)),
        ):
            replays = ReplayedGraph.replays
            assert drive(graphed, asks, replace(plan, batch=min(plan.batch, 2))) == wanted
            assert ReplayedGraph.replays > replays
    assert rounds(graphed).recorded[0] == RoundShape(2, 3, SamplingKind.FILTERED)
    assert RoundShape(1, 3, SamplingKind.GREEDY) in rounds(graphed).recorded


def test_rows_that_a_replayed_round_has_too_many_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, model: Model
) -> None:
    graphed = engine(monkeypatch, ReplayedGraph, model("llama"), model("llama", 1), resident=True)
    drive(graphed, ASKS, DrivePlan(draft=3))
    run, table = rounds(graphed), tiny.device_rounds(graphed)._table
    before = [pool[1:].clone().view(torch.int32) for pool in graphed._target.cache.pools_by_page]
    state = table._ints.clone()
    shape = next(shape for shape in run.recorded if shape.rows == 2)
    with torch.inference_mode():
        result = run(torch.zeros(2, 2, dtype=torch.int64), shape.drafts, shape.kind, 1)
    assert not (result[:, 0] & FLAG_ALIVE).any()
    assert torch.equal(table._ints, state)
    after = [pool[1:].view(torch.int32) for pool in graphed._target.cache.pools_by_page]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


def test_rounds_that_cannot_be_recorded_run_eagerly(
    monkeypatch: pytest.MonkeyPatch, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    eager = engine(monkeypatch, UnrecordableGraph, model("llama"), model("llama", 1), resident=True)
    wanted = drive(tiny.engine(model("llama")), ASKS[:1], DrivePlan())
    assert drive(eager, ASKS[:1], DrivePlan(draft=2)) == wanted
    assert rounds(eager).recorded == ()
    assert "operation not permitted when stream is capturing" in caplog.text


def test_a_model_that_cannot_be_recorded_is_logged_and_served_eagerly(
    monkeypatch: pytest.MonkeyPatch, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    eager = engine(monkeypatch, UnrecordableGraph, model("llama"), model("llama", 1))
    assert drive(eager, ASKS[:1], DrivePlan(draft=2)) == drive(
        tiny.engine(model("llama")), ASKS[:1], DrivePlan()
    )
    assert runner(eager).recorded == ()
    assert "operation not permitted when stream is capturing" in caplog.text


@pytest.mark.parametrize(
    ("rows", "width", "found"),
    [(1, 1, Bucket(1, 1)), (3, 2, Bucket(4, 2)), (17, 5, Bucket(24, 6)), (48, 6, Bucket(48, 6))],
)
def test_the_smallest_bucket_that_holds_a_forward_is_chosen(
    rows: int, width: int, found: Bucket
) -> None:
    assert find_bucket(rows, width, Bucket(64, 6)) == found


@pytest.mark.parametrize(("rows", "width"), [(65, 1), (1, 7), (1, 400)])
def test_a_forward_beyond_the_largest_bucket_has_none(rows: int, width: int) -> None:
    assert find_bucket(rows, width, Bucket(64, 6)) is None


@pytest.mark.parametrize(
    ("rows", "width", "found"), [(5, 6, Bucket(8, 6)), (1000, 60, Bucket(256, 16))]
)
def test_the_largest_bucket_follows_from_the_servers_bounds(
    rows: int, width: int, found: Bucket
) -> None:
    assert largest_bucket(rows, width) == found


def test_what_a_forward_leaves_free_in_its_bucket_is_padding_on_the_trash_page() -> None:
    cache = KvCache([LayerShape(2, 16)], 9, torch.float32, paged.DEVICE)
    backend = backends.TritonPagedAttention(paged.DEVICE, 8, None)
    inputs = GraphInputs(Bucket(4, 4), 3, paged.DEVICE)
    both = [row(1, [3, 8], 19), row(2, [5, 6], 30)]
    full = [TokenSpan(one, one.cached, one.tokens[one.cached :], 1) for one in both]
    inputs.fill(pack_spans(full, cache, torch.device("cpu")), Bucket(2, 4))
    inputs.fill(pack_spans(full[1:], cache, torch.device("cpu")), Bucket(2, 4))
    ids, positions, layout, wanted = inputs.forward_arguments(Bucket(2, 4), cache, backend)
    assert ids.tolist() == [[29, 30, 0, 0, 0, 0, 0, 0]]
    assert positions.tolist() == [[28, 29, 0, 0, 0, 0, 0, 0]]
    assert layout.slots.tolist() == [6 * 16 + 12, 6 * 16 + 13, 0, 0, 0, 0, 0, 0]
    assert wanted.tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert layout.tables is not None
    assert layout.tables.row_offsets.tolist() == [
        [0, 0],
        [2, 0],
        [30, 0],
    ]  # starts, counts, lengths
    assert layout.tables.pages[0, :2].tolist() == [5, 6]


def row(id: int, pages: list[int], length: int) -> CachedRow:
    """A row of tokens 1, 2, 3... of which all but two are cached."""
    tokens = list(range(1, length + 1))
    return CachedRow(id, tokens, length, 9, False, GREEDY, ReportOptions(), None, pages, length - 2)
