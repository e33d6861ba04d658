"""The CPU quota of a container, read from written files of control groups."""

from __future__ import annotations

import os
from math import inf
from pathlib import Path

import pytest

from shard import cores
from shard.cores import available_cores, cpu_quota


def quota(folder: Path, own: str, files: dict[str, str]) -> float:
    """The quota of a process in the groups `own`, where `files` exist."""
    for name, text in {"own": own, **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return cpu_quota(folder, folder / "own")


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [("200000 100000\n", 2), ("150000 100000", 2), ("50000 100000", 1), ("max 100000\n", inf)],
)
def test_a_quota_of_version_2_counts_part_of_a_core_as_a_core(
    tmp_path: Path, limit: str, wanted: float
) -> None:
    assert quota(tmp_path, "0::/pod/app\n", {"pod/app/cpu.max": limit}) == wanted


def test_the_smallest_quota_of_all_enclosing_groups_counts(tmp_path: Path) -> None:
    files = {"pod/app/cpu.max": "800000 100000", "pod/cpu.max": "300000 100000"}
    assert quota(tmp_path, "0::/pod/app\n", files) == 3


def test_a_container_that_sees_its_group_as_the_root_reads_it_there(tmp_path: Path) -> None:
    assert quota(tmp_path, "0::/\n", {"cpu.max": "400000 100000"}) == 4


@pytest.mark.parametrize(("limit", "wanted"), [("250000", 3), ("-1", inf)])
def test_a_quota_of_version_1_is_read_beside_its_period(
    tmp_path: Path, limit: str, wanted: float
) -> None:
    files = {
        "cpu,cpuacct/app/cpu.cfs_quota_us": limit,
        "cpu,cpuacct/app/cpu.cfs_period_us": "100000",
    }
    assert quota(tmp_path, "5:memory:/app\n3:cpu,cpuacct:/app\n", files) == wanted


def test_no_control_groups_mean_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path / "missing") == inf
    assert quota(tmp_path, "0::/elsewhere\n", {}) == inf


def test_the_smallest_of_affinity_quota_and_variable_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    monkeypatch.setattr(cores, "cpu_quota", lambda: 6)
    assert available_cores({}) == 6
    assert available_cores({"OMP_NUM_THREADS": "2"}) == 2
    assert available_cores({"OMP_NUM_THREADS": "0"}) == 1
    assert available_cores({"OMP_NUM_THREADS": "two"}) == 6
