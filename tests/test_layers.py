"""Which module may import which, and what no module may contain.

Everything is read from syntax trees; nothing is imported.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PRODUCT = sorted(
    path.relative_to(ROOT)
    for path in (*ROOT.glob("router/**/*.py"), *ROOT.glob("shard/**/*.py"), *ROOT.glob("*.py"))
)
TESTS = sorted(path.relative_to(ROOT) for path in ROOT.glob("tests/**/*.py"))
MIRRORS = ("router", "shard", "benchmark", "deploy")
"""Folders of the repository that folders of tests mirror."""
PURE = {"bisect", "collections", "collections.abc", "dataclasses", "enum", "heapq", "itertools"}
PURE |= {"math", "typing", "__future__"}
ROUTER = (
    ("errors", "options", "log_levels", "offload", "exact_json"),
    ("scheduler",),
    ("config",),
    ("child", "server_info"),
    ("text", "shards"),
    ("requests",),
    ("observability",),
    ("dispatch",),
    ("http",),
    ("native", "debug", "pages"),
    ("openai",),
    ("anthropic",),
    ("cloud",),
    ("capacity", "served_model"),
    ("backend",),
    ("route_groups",),
    ("app",),
    ("__main__", "preflight", "cli"),
)
SHARD = (
    ("errors", "events", "progress", "bounded_cache", "cache_folder"),
    ("child_command", "cores", "light_imports"),
    ("config",),
    ("wire",),
    ("attention", "sampling", "lora"),
    ("batch",),
    ("step_handle", "model"),
    ("loading", "rounds", "echo"),
    ("warmup", "drafters", "gguf"),
    ("engine_parts",),
    ("engine",),
    ("server",),
    ("__main__", "preflight", "launch"),
)
"""Folders and modules of each package, lowest layer first. A folder or module may import only from
layers below its own and from itself."""
LAUNCHER_ONLY = ("router.cli", "shard.launch")
LIGHT = (
    *LAUNCHER_ONLY,
    "router.config",
    "router.log_levels",
    "router.options",
    "router.scheduler",
    "shard.cache_folder",
    "shard.child_command",
    "shard.config",
    "shard.errors",
    "shard.gguf.conversion_cache",
    "shard.gguf.header",
    "shard.gguf.selection",
    "shard.loading.adapter_config",
    "shard.loading.checkpoint",
    "shard.loading.draft_vocabulary",
    "shard.loading.model_files",
    "shard.wire.sockets",
)
"""What the launcher imports; every module in it imports fast."""
NOT_LOADED = (Path("shard/launch/hub_download.py"), Path("router/cli/start_view.py"))
"""Modules there that need not be light: a separate process, and a view that only terminals need."""


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, in functions too; relative imports are resolved."""
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


def layer(module: str, order: tuple[tuple[str, ...], ...]) -> int:
    """The index in `order` of the layer that `module` of the same package lies in."""
    part = module.split(".")[1]
    (index,) = (index for index, parts in enumerate(order) if part in parts)
    return index


def import_pairs(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Every import of `paths`: the name of the importing module, and of the imported one."""
    for path in paths:
        importer = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        yield from ((importer, module) for module in imports(path))


@pytest.mark.parametrize(("package", "order"), [("router", ROUTER), ("shard", SHARD)])
def test_a_module_imports_only_from_itself_and_from_layers_below(
    package: str, order: tuple[tuple[str, ...], ...]
) -> None:
    inner = [
        (importer, module)
        for importer, module in import_pairs(files(package))
        if within(module, package) and "." in module and "." in importer
    ]
    assert inner
    assert [
        f"{importer} imports {module}"
        for importer, module in inner
        if module.split(".")[1] != importer.split(".")[1]
        and layer(module, order) >= layer(importer, order)
    ] == []


@pytest.mark.parametrize(("package", "order"), [("router", ROUTER), ("shard", SHARD)])
def test_every_module_has_a_layer(package: str, order: tuple[tuple[str, ...], ...]) -> None:
    parts = {path.parts[1].removesuffix(".py") for path in files(package)}
    assert parts - {"__init__", "demo"} == {part for layer in order for part in layer}


FROM_SHARD = ("shard.wire.protocol", "shard.child_command")


def test_the_router_imports_only_the_wire_of_the_shard_and_no_tensors() -> None:
    for importer, module in import_pairs(files("router")):
        assert not within(module, "torch", "transformers", "launcher", "benchmark"), importer
        assert not within(module, "shard") or module in FROM_SHARD, importer


def test_the_shard_imports_neither_router_nor_launcher() -> None:
    for importer, module in import_pairs(files("shard")):
        assert not within(module, "router", "launcher", "benchmark"), importer


def test_importing_a_package_of_the_shard_runs_nothing() -> None:
    for path in sorted(ROOT.glob("shard/**/__init__.py")):
        assert ast.unparse(ast.Module(ast.parse(path.read_text()).body[1:], [])) == "", path


def test_the_scheduler_is_pure() -> None:
    for importer, module in import_pairs(files("router.scheduler")):
        assert within(module, "router.scheduler") or module in PURE | {"router.options"}, importer


def test_only_the_launcher_imports_the_launchers_modules() -> None:
    for importer, module in import_pairs(files("router", "shard")):
        assert within(importer, *LAUNCHER_ONLY) or not within(module, *LAUNCHER_ONLY), importer


def test_what_the_launcher_loads_is_light() -> None:
    light = [Path("launcher.py"), *(path for path in files(*LIGHT) if path not in NOT_LOADED)]
    for importer, module in import_pairs(light):
        standard = module.partition(".")[0] in sys.stdlib_module_names
        assert within(module, *LIGHT) or standard, importer


MAX_FILES = {"router": 20, "shard": 16, "router/scheduler": 10, "benchmark": 8}
SHARED_STEMS = {"__init__", "__main__", "config"}
MIRRORED = {"routes", "openapi", "generation", "request_models", "response_models", "validation"}
"""Modules that several API folders have under the same name."""


@pytest.mark.parametrize(("folder", "maximum"), MAX_FILES.items())
def test_a_folder_has_few_files(folder: str, maximum: int) -> None:
    assert len(list((ROOT / folder).glob("*.py"))) <= maximum


@pytest.mark.parametrize("package", ["router", "shard"])
def test_file_names_are_unique_in_a_package(package: str) -> None:
    count = Counter(path.stem for path in files(package))
    assert {stem for stem, times in count.items() if times > 1} <= SHARED_STEMS | MIRRORED


def test_class_names_are_unique_in_the_product() -> None:
    trees = (ast.parse((ROOT / path).read_text()) for path in PRODUCT)
    classes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    count = Counter(node.name for node in classes)
    assert [name for name, times in count.items() if times > 1] == []


def test_nothing_is_pickled_and_no_wall_clock_is_read() -> None:
    for importer, module in import_pairs(PRODUCT):
        assert not within(module, "pickle", "marshal", "shelve"), importer
    for path in PRODUCT:
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                assert {alias.name for alias in node.names} <= {"monotonic", "perf_counter"}, path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("time", "time"), path


def test_nothing_is_imported_from_a_test_or_a_conftest() -> None:
    for importer, module in import_pairs(TESTS):
        name = module.rpartition(".")[2] if within(module, "tests") else ""
        assert not name.startswith(("conftest", "test_")), importer


def test_folders_of_tests_mirror_the_repository() -> None:
    folders = {path.parent for path in TESTS if path.parts[1] in MIRRORS}
    assert [f for f in sorted(folders) if not (ROOT / f.relative_to("tests")).is_dir()] == []
