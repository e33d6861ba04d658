"""The figures of the comparison: exactly the agreed names, and each the ratio that it claims."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark import __main__ as commands
from benchmark.simulation.plans import PolicyVariant, SimulationResult, Workload, flatten
from benchmark.study import bounds, decision_costs, figures, live, page, parts, variants
from benchmark.study.tables import interval
from benchmark.study.targets import TARGETS

PER_SHAPE = (
    "paper_over_las",
    "laps_over_fcfs",
    "laps_over_las",
    "laps_over_sjf",
    "laps_over_srpt_sigma03",
    "laps_over_srpt_sigma10",
)
NAMES = {
    *(f"{name}.{shape}" for name in PER_SHAPE for shape in ("chat", "code", "reasoning")),
    "burst_over_sjf_worst",
    "tail_p99_over_fcfs",
    "tail_mean_cost",
    "batch8_gain_kept",
    "batch8_throughput",
    "sigma06_over_sigma0.chat",
    "reversed_over_fcfs",
    "estimate_error_at_25",
    "estimate_error_at_75",
    "next_batch_ms_256",
    "next_batch_ms_10000",
}


def made_up(load: Workload, arm: PolicyVariant) -> SimulationResult:
    """Every arm has a mean of its own, the same for all loads."""
    mean = {"fcfs": 4.0, "las": 5.0, "sjf": 2.5, "srpt": 1.0, "laps-sd-paper": 3.0}
    value = mean.get(arm.policy, 2.0 if arm.sigma == 0.3 else 1.5)
    errors = tuple(0.01 * at for at in range(7))
    return SimulationResult(
        load, arm, value, value, 2 * value, 0.0, 0.0, 10.0, 0.0, 0.0, 0.0, (), (), errors
    )


def table(wanted: Mapping[Workload, list[PolicyVariant]]) -> figures.ResultTable:
    return {(load, arm): made_up(load, arm) for load, arms in wanted.items() for arm in arms}


def test_the_names_are_the_agreed_ones() -> None:
    decision_names = {f"next_batch_ms_{live}" for live in decision_costs.REPORTED_SIZES}
    found = figures.compute_metrics(table(figures.tasks(figures.QUICK)), figures.QUICK)
    assert found.keys() | decision_names == NAMES == TARGETS.keys()


def test_figures_are_ratios_of_means() -> None:
    found = figures.compute_metrics(table(figures.tasks(figures.QUICK)), figures.QUICK)
    assert found["laps_over_fcfs.chat"] == pytest.approx(2 / 4)
    assert found["laps_over_srpt_sigma10.code"] == pytest.approx(1.5)
    assert found["paper_over_las.reasoning"] == pytest.approx(3 / 5)
    assert found["tail_p99_over_fcfs"] == pytest.approx(0.5)
    assert found["tail_mean_cost"] == pytest.approx(0.0)
    assert found["batch8_gain_kept"] == pytest.approx(1.0)
    assert found["estimate_error_at_25"] == pytest.approx(0.01)
    assert found["estimate_error_at_75"] == pytest.approx(0.05)


def test_the_study_needs_no_run_twice() -> None:
    wanted = figures.tasks(figures.QUICK)
    for more in (parts, bounds, variants):
        parts.add_simulations(wanted, more.tasks(figures.QUICK).items())
    for arms in wanted.values():
        assert len(arms) == len(set(arms))


def test_the_command_writes_rows_and_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = figures.StudySize(
        1,
        dict.fromkeys(figures.SHAPES, 8),
        (3,),
        3,
        dict.fromkeys(figures.SHAPES, 10.0),
    )
    monkeypatch.setattr(figures, "QUICK", tiny)
    monkeypatch.setattr(decision_costs, "measure", lambda live: 1e-6 * live)
    path = tmp_path / "s.json"
    assert commands.main(["schedulers", "--quick", "--json", str(path), "--processes", "1"]) == 0
    report = json.loads(path.read_text())
    assert report["figures"].keys() == NAMES
    assert report["quick"] is True
    assert report["figures"]["next_batch_ms_256"] == pytest.approx(0.256)
    tasks = figures.tasks(tiny)
    assert len(report["rows"]) == sum(map(len, tasks.values()))
    assert (
        report["rows"][0].keys()
        == flatten(made_up(Workload("chat", 0), PolicyVariant("fcfs"))).keys()
    )


def test_markers_are_filled_and_unknown_ones_refused() -> None:
    text = "a <!-- table t -->\nold\n<!-- end --> b <!--= x.y -->1<!--/--> c"
    filled = page.render(text, {"t": "new"}, {"x.y": 0.456})
    assert filled == "a <!-- table t -->\n\nnew\n\n<!-- end --> b <!--= x.y -->0.46<!--/--> c"
    assert page.render(filled, {"t": "new"}, {"x.y": 0.456}) == filled
    with pytest.raises(KeyError, match="t"):
        page.render(text, {}, {"x.y": 1.0})


def test_every_marker_of_the_page_has_a_number() -> None:
    text = (Path(__file__).parents[3] / "docs" / "study.md").read_text()
    names = dict.fromkeys(
        (
            "targets",
            "bound",
            "policies",
            "levels",
            "batches",
            "memory",
            "courses",
            "detection",
            "knobs",
            "errors",
            "knowledge",
            "tails",
            "waves",
            "ablations",
            "tenants",
            "live",
        ),
        "",
    )
    page.render(text, names, dict.fromkeys(NAMES, 1.0))


def test_the_time_of_a_decision_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_costs, "STEPS", 3)
    assert 0 < decision_costs.measure(20) < 60


def test_an_interval_needs_three_seeds_and_holds_their_mean() -> None:
    assert interval([1.0, 1.2]) is None
    low, high = interval([1.0, 1.1, 1.21]) or (0.0, 0.0)
    assert low < 1.1 < high


def test_part_five_says_what_is_missing_or_shows_it(tmp_path: Path) -> None:
    assert "python -m benchmark live" in live.table(tmp_path / "absent.json")
    rows = [
        {"policy": "fcfs", "arrival": 0.0, "length": 3, "live": 2.0, "simulated": 1.9},
        {"policy": "fcfs", "arrival": 1.0, "length": 4, "live": 4.0, "simulated": 4.1},
    ]
    path = tmp_path / "live.json"
    path.write_text(json.dumps({"figures": {"live.tokens_identical": 1}, "requests": rows}))
    assert "| fcfs | 2 | 3.000 | 3.000 | 1.000 |" in live.table(path)
    path.write_text(json.dumps({"figures": {}}))
    with pytest.raises(ValueError, match="is not what"):
        live.table(path)


def test_half_the_seeds_serve_other_loads() -> None:
    size = replace(figures.QUICK, seeds=5)
    assert len(parts.poisson(size, "chat", 0.8)) == 5
    assert len(parts.poisson(size, "demo", 0.5)) == 3


def test_jains_index_is_one_where_all_are_equal_and_a_share_where_one_has_all() -> None:
    assert variants.jain_index([2.0, 2.0, 2.0]) == pytest.approx(1.0)
    assert variants.jain_index([5.0, 0.0]) == pytest.approx(0.5)
