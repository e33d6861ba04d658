"""Who may import whom, and what is written nowhere: read from the syntax trees."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = sorted(
    path.relative_to(ROOT)
    for path in (*ROOT.glob("router/**/*.py"), *ROOT.glob("shard/**/*.py"), ROOT / "launcher.py")
)
OURS = ("router", "shard", "launcher", "benchmark", "tests")
PURE = {"bisect", "collections", "collections.abc", "dataclasses", "enum", "heapq", "itertools"}
PURE |= {"math", "typing", "__future__"}
LAUNCHER = {
    *("router.config", "router.console", "router.environment", "router.legacy"),
    *("router.levels", "router.listener", "router.options", "router.settings"),
    *("shard.checkpoint", "shard.children", "shard.config", "shard.errors", "shard.estimate"),
    *("shard.finding", "shard.overlay", "shard.sockets"),
}


def imports(path: Path) -> Iterator[str]:
    """The modules that a file names, wherever it names them; relative ones made absolute."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(path.parts[: len(path.parts) - node.level]) if node.level else ""
            module = ".".join(filter(None, (package, node.module)))
            for alias in node.names:
                yield f"{module}.{alias.name}" if is_module(module, alias.name) else module


def is_module(package: str, name: str) -> bool:
    folder = ROOT / package.replace(".", "/")
    return (folder / f"{name}.py").exists() or (folder / name).is_dir()


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def files(*folders: str) -> list[Path]:
    return [path for path in PRODUCT if within(".".join(path.with_suffix("").parts), *folders)]


@pytest.mark.parametrize("path", files("router"), ids=str)
def test_the_router_knows_of_the_shard_only_the_wire_and_loads_no_tensors(path: Path) -> None:
    for module in imports(path):
        assert not within(module, "torch", "transformers", "launcher", "benchmark")
        assert not within(module, "shard") or module == "shard.protocol"


@pytest.mark.parametrize("path", files("shard"), ids=str)
def test_the_shard_knows_nothing_of_those_who_use_it(path: Path) -> None:
    for module in imports(path):
        assert not within(module, "router", "launcher", "benchmark")


def test_importing_the_shard_package_runs_nothing() -> None:
    assert (ROOT / "shard" / "__init__.py").read_text() == ""


@pytest.mark.parametrize("path", files("router.scheduler"), ids=str)
def test_the_scheduler_is_pure(path: Path) -> None:
    for module in imports(path):
        assert within(module, "router.scheduler") or module in PURE | {"router.config"}


def test_the_launcher_loads_only_what_is_light() -> None:
    for module in imports(Path("launcher.py")):
        assert module in LAUNCHER or module.partition(".")[0] in sys.stdlib_module_names


@pytest.mark.parametrize("name", sorted(LAUNCHER))
def test_what_the_launcher_loads_is_light_itself(name: str) -> None:
    for module in imports(Path(name.replace(".", "/") + ".py")):
        assert module in LAUNCHER or module.partition(".")[0] in sys.stdlib_module_names


@pytest.mark.parametrize("path", PRODUCT, ids=str)
def test_nothing_is_pickled_and_no_wall_clock_is_read(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text())
    assert not [module for module in imports(path) if within(module, "pickle", "marshal", "shelve")]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            assert {alias.name for alias in node.names} <= {"monotonic", "perf_counter"}
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("time", "time")
