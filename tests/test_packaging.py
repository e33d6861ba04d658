"""The wheel contains the product and nothing else."""

from __future__ import annotations

import shutil
import tomllib
from importlib import import_module
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.support.paths import ROOT
from tests.support.processes import Processes

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = ("launcher.py", "pyproject.toml", "README.md", "LICENSE")
FOLDERS = ("router", "shard", "benchmark", "tests/support")
INSTALLED = ("router", "shard")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"

UNPINNED = {"tgi-laps", "triton"}
"""This project, and what a CUDA build of torch pins itself."""


@pytest.fixture
def wheel_members(tmp_path: Path, processes: Processes) -> set[str]:
    """The files inside a wheel built from a copy of the sources."""
    source, target = tmp_path / "source", tmp_path / "wheel"
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    for name in SOURCES:
        shutil.copy(ROOT / name, source / name)
    build = processes.start("-W", "ignore", "-c", BUILD, str(target), cwd=source)
    assert build.end() == 0, build.lines
    (wheel,) = target.glob("*.whl")
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_file_of_the_product_and_nothing_else(
    wheel_members: set[str],
) -> None:
    files = {
        str(path.relative_to(ROOT))
        for folder in INSTALLED
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    installed = {name for name in wheel_members if ".dist-info/" not in name}
    assert installed == files | {"launcher.py"}
    assert "shard/demo/target/model.safetensors" in installed
    assert {"router/pages/static/playground.html", "router/pages/static/page.css"} <= installed


def test_tgis_program_is_the_launcher() -> None:
    module, _, function = PROJECT["project"]["scripts"]["text-generation-launcher"].partition(":")
    assert callable(getattr(import_module(module), function))


def test_every_dependency_has_an_exact_version() -> None:
    lines = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").splitlines()
    pinned = {line.partition("==")[0] for line in lines}
    extras = PROJECT["project"]["optional-dependencies"]
    optional = (*extras["dev"], *extras["gguf"], *extras["traces"])
    for entry in (*PROJECT["project"]["dependencies"], *optional):
        name = entry.partition(";")[0].partition(">=")[0].partition("[")[0].strip()
        assert name.lower() in pinned | UNPINNED, name
