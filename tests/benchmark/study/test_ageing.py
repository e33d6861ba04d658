"""What ageing costs is the ratio of two means over the same workloads."""

from __future__ import annotations

import pytest

from benchmark.simulation.plans import PolicyVariant, SimulationResult, Workload
from benchmark.study.ageing import PATIENT, figures, workloads
from benchmark.study.figures import LAPS


def made_up(load: Workload, variant: PolicyVariant, mean: float) -> SimulationResult:
    """A result of which only the mean latency counts."""
    return SimulationResult(load, variant, mean, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, (), (), ())


def test_costs_are_named_by_shape_load_and_rows_and_the_worst_is_one_of_them() -> None:
    loads = workloads(quick=True)
    slow = loads["chat", 0.9, 1]
    results = {
        (load, variant): made_up(load, variant, mean)
        for of_pair in loads.values()
        for load in of_pair
        for variant, mean in ((LAPS, 2.5 if load in slow else 2.0), (PATIENT, 2.0))
    }
    found = figures(loads, results)
    assert found["ageing.cost_chat_0.9"] == found["ageing.worst_cost"] == pytest.approx(0.25)
    assert found["ageing.cost_chat_0.9_8"] == 0.0
    assert found["ageing.mean_cost"] == pytest.approx(0.25 / 18)
    assert len(found) == 18 + 3
