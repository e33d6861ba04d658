"""The wheel contains the product and nothing else, and serves where it is installed."""

from __future__ import annotations

import json
import shutil
import signal
import sysconfig
import tomllib
import venv
from importlib import import_module
from pathlib import Path
from urllib.request import Request, urlopen
from zipfile import ZipFile

import pytest

from tests.support.paths import ROOT
from tests.support.processes import TIMEOUT_SECONDS, Processes

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SOURCES = ("launcher.py", "pyproject.toml", "README.md", "LICENSE")
FOLDERS = ("router", "shard", "benchmark", "tests/support")
INSTALLED = ("router", "shard")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"

UNPINNED = {"tgi-laps", "triton"}
"""This project, and what a CUDA build of torch pins itself."""


@pytest.fixture
def wheel(tmp_path: Path, processes: Processes) -> Path:
    """A wheel built from a copy of the sources."""
    source, target = tmp_path / "source", tmp_path / "wheel"
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    for name in SOURCES:
        shutil.copy(ROOT / name, source / name)
    build = processes.start("-W", "ignore", "-c", BUILD, str(target), cwd=source)
    assert build.end() == 0, build.lines
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture
def installed_script(wheel: Path, tmp_path: Path, processes: Processes) -> Path:
    """The console script in an environment of its own, where only the wheel is installed."""
    environment = tmp_path / "environment"
    venv.create(environment)
    offline = ("--no-index", "--no-deps", "--ignore-installed")  # the sources are importable too
    pip = ("-m", "pip", "--python", str(environment), "install", *offline)
    install = processes.start(*pip, str(wheel))
    assert install.end() == 0, install.lines
    return environment / "bin" / "text-generation-launcher"


def test_the_console_script_of_an_installed_wheel_serves_the_bundled_pair(
    installed_script: Path, tmp_path: Path, processes: Processes
) -> None:
    execute = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    flags = ("--hostname", "127.0.0.1", "-p", "0", "--num-shard", "1")
    dependencies = {"PYTHONPATH": sysconfig.get_path("purelib")}
    server = processes.start(
        "-c", execute, str(installed_script), *flags, cwd=tmp_path, env=dependencies
    )
    body = json.dumps({"inputs": "def main():", "parameters": {"max_new_tokens": 4}}).encode()
    request = Request(f"{server.url()}/generate", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        assert json.load(response)["generated_text"]
    server.signal(signal.SIGTERM)
    assert server.end() == 0


def test_the_wheel_holds_every_file_of_the_product_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        members = archive.namelist()
    files = {
        str(path.relative_to(ROOT))
        for folder in INSTALLED
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    installed = {name for name in members if ".dist-info/" not in name}
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
