"""Made-up and recorded requests: their moments, and that they survive their file."""

from math import log
from pathlib import Path
from statistics import fmean, median, stdev

import pytest

from benchmark.simulation import traces, workloads
from benchmark.simulation.traces import Trace

COUNT = 3000


@pytest.mark.parametrize("name", workloads.SHAPES)
def test_a_shape_has_the_moments_that_it_names(name: str) -> None:
    shape = workloads.SHAPES[name]
    drawn = workloads.traces(shape, COUNT, seed=1)
    lengths = [trace.length for trace in drawn]
    assert median(lengths) == pytest.approx(shape.output[0], rel=0.08)
    uncut = [log(n) for n in lengths if n < shape.max_new]
    assert stdev(uncut) == pytest.approx(shape.output[1], rel=0.15)
    assert max(lengths) <= shape.max_new
    assert median(t.prompt_tokens for t in drawn) == pytest.approx(shape.prompt[0], rel=0.08)
    long = [trace.accepted for trace in drawn if trace.length > 60]
    assert fmean(long) == pytest.approx(shape.level[0], abs=0.02)
    assert shape.level[1] < stdev(long) < shape.level[1] + 0.06


@pytest.mark.parametrize(
    ("pattern", "early", "late"),
    [
        ("steady", 0.0, 0.0),
        ("drift", 0.0, 0.22),
        ("switch", 0.0, 0.3),
        ("decay", 0.04, 0.26),
    ],
)
def test_a_pattern_lowers_acceptance_at_its_positions(
    pattern: str, early: float, late: float
) -> None:
    shape = workloads.SHAPES["chat"]
    drawn = [t for t in workloads.traces(shape, COUNT, 2, pattern) if t.length >= 80]
    first = fmean(fmean(t.agrees[: t.length // 4]) for t in drawn)
    last = fmean(fmean(t.agrees[-t.length // 4 :]) for t in drawn)
    assert shape.level[0] - first == pytest.approx(early, abs=0.03)
    assert shape.level[0] - last == pytest.approx(late, abs=0.04)


def test_an_unknown_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="'uphill' is not one of steady"):
        workloads.traces(workloads.SHAPES["chat"], 3, 0, "uphill")


def test_the_same_seed_draws_the_same_requests() -> None:
    shape = workloads.SHAPES["code"]
    assert workloads.traces(shape, 20, 5) == workloads.traces(shape, 20, 5)
    assert workloads.traces(shape, 20, 5) != workloads.traces(shape, 20, 6)


def test_predictions_are_off_by_sigma_and_reversed_ones_rank_backwards() -> None:
    drawn = workloads.traces(workloads.SHAPES["chat"], COUNT, 0)
    errors = [
        log(guess / trace.length)
        for guess, trace in zip(workloads.predictions(drawn, 0.3, 0), drawn, strict=True)
    ]
    assert fmean(errors) == pytest.approx(0, abs=0.02)
    assert stdev(errors) == pytest.approx(0.3, abs=0.02)
    assert workloads.predictions(drawn, 0.0, 0) == pytest.approx([t.length for t in drawn])
    backwards = workloads.predictions(drawn, 0.0, 0, reverse=True)
    assert sorted(backwards) == pytest.approx(sorted(t.length for t in drawn))
    longer = sorted(range(COUNT), key=lambda place: drawn[place].length)
    guesses = [backwards[place] for place in longer]
    assert min(guesses[: COUNT // 2 - 50]) > max(guesses[COUNT // 2 + 50 :])


def test_arrivals_are_as_many_as_the_rate_says_after_the_backlog() -> None:
    drawn = [Trace("", 1, 1, b"\1")] * COUNT
    arriving = workloads.poisson(drawn, None, rate=4.0, seed=0, backlog=10)
    times = [request.arrival for request in arriving]
    assert times[:10] == [0.0] * 10
    assert times == sorted(times)
    assert (COUNT - 10) / times[-1] == pytest.approx(4.0, rel=0.06)
    assert {request.arrival for request in workloads.burst(drawn[:3], None)} == {0.0}


def test_runs_and_rounds_count_what_a_round_accepts() -> None:
    agrees = bytes([1, 1, 0, 1, 0, 0, 1])
    assert list(traces.agreement_runs(agrees)) == [2, 1, 0, 1, 0, 0, 1]
    trace = Trace("", 1, 9, agrees)
    # drafts of 2: 1 1 then the corrected 0; 1 then the corrected 0; 0; 1
    assert traces.remaining_rounds(trace, 2) == [4, 4, 4, 3, 3, 2, 1, 0]
    assert traces.remaining_rounds(trace, 0)[0] == trace.length


def test_traces_survive_their_file(tmp_path: Path) -> None:
    drawn = workloads.traces(workloads.SHAPES["code"], 25, 0)
    traces.save(tmp_path / "t.json", drawn, {"pair": "none"})
    assert traces.load(tmp_path / "t.json") == drawn


def test_a_file_without_traces_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match="holds no traces"):
        traces.load(tmp_path / "t.json")
    (tmp_path / "t.json").write_text('{"traces": [["chat", 3, 9, 9, "ff"]]}')
    with pytest.raises(ValueError, match="8 positions are recorded of 9"):
        traces.load(tmp_path / "t.json")


def test_the_bundled_traces_are_there_and_of_three_families() -> None:
    recorded = traces.load(traces.RECORDED_TRACES)
    assert len(recorded) >= 200
    assert {trace.family for trace in recorded} == {"chat", "code", "long"}


@pytest.mark.parametrize(("prompt", "length", "most"), [(0, 3, 9), (1, 0, 9), (1, 3, 2)])
def test_no_trace_without_prompt_or_answer(prompt: int, length: int, most: int) -> None:
    with pytest.raises(ValueError, match="no request"):
        Trace("", prompt, most, bytes(length))
