"""What is installed is what is here."""

from __future__ import annotations

import tomllib
from importlib import import_module

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

FREE = {"tgi-laps", "triton"}
"""Ourselves, and what a CUDA build of torch pins itself."""


def test_every_package_is_installed() -> None:
    folders = {
        path.parent
        for top in ("router", "shard", "benchmark")
        for path in ROOT.glob(f"{top}/**/__init__.py")
    }
    here = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert here <= set(PROJECT["tool"]["setuptools"]["packages"])


def test_tgis_program_is_the_launcher() -> None:
    module, _, function = PROJECT["project"]["scripts"]["text-generation-launcher"].partition(":")
    assert callable(getattr(import_module(module), function))


def test_every_dependency_has_an_exact_version() -> None:
    lines = (ROOT / "constraints.txt").read_text().lower().replace("_", "-").splitlines()
    pinned = {line.partition("==")[0] for line in lines}
    extras = PROJECT["project"]["optional-dependencies"]
    for wish in (*PROJECT["project"]["dependencies"], *extras["dev"], *extras["traces"]):
        name = wish.partition(";")[0].partition(">=")[0].partition("[")[0].strip()
        assert name.lower() in pinned | FREE, name
