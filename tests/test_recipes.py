"""The documents name only what exists: recipes, files, names in code, flags, commands, links.

Read from Markdown and from syntax trees; nothing of the product is imported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from benchmark.__main__ import COMMANDS
from tests.support.paths import ROOT

PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/*.md", "deploy/**/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "style.md"  # it quotes names that are gone
)
MAPS = [Path(page) for page in ("CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md")]
MAPS += [Path("docs/cuda.md"), Path("docs/drafting.md")]
"""Pages that lead into the code: a name in them is a name in the tree."""
RECIPES = (
    "A scheduling policy",
    "A flag",
    "A sampling parameter",
    "A route",
    "A metric",
    "A drafter",
    "A tool-call format",
    "A model family",
    "A quantized format",
)
BY_FOLDER = {"request_models.py", "response_models.py"}
"""Files that each API folder has."""
FOLDERS = ("router", "shard", "benchmark", "tests", "docs", "deploy", ".ci")

_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")
_DOTTED = re.compile(r"\w+(\.\w+)+")
_NAME = re.compile(r"_?[A-Za-z]\w*(\.\w+)*")
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def spans(page: Path) -> list[str]:
    """What stands in backticks outside of code blocks, without duplicates."""
    return [*dict.fromkeys(_SPAN.findall(_FENCE.sub("", (ROOT / page).read_text())))]


def is_path(span: str) -> bool:
    """Whether `span` is meant as a path from the root of the repository."""
    folder, slash, _ = span.partition("/")
    in_folder = bool(slash) and folder in FOLDERS
    return " " not in span and (
        in_folder or (span.endswith((".py", ".md")) and span not in BY_FOLDER) or span == "Makefile"
    )


def exists(span: str) -> bool:
    """Whether some file or folder matches; `*` and `NAME` stand for any name."""
    return any(ROOT.glob(span.replace("NAME", "*").rstrip("/")))


def module_file(parts: list[str]) -> Path | None:
    path = ROOT.joinpath(*parts)
    if path.is_dir():
        return path / "__init__.py"
    file = path.with_suffix(".py")
    return file if file.exists() else None


def members(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """The names that statements of a module or class define or import."""
    for node in body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.name, node
            case ast.Assign():
                named = (part for target in node.targets for part in ast.walk(target))
                yield from ((part.id, node) for part in named if isinstance(part, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name, node
            case ast.ImportFrom():
                yield from ((alias.asname or alias.name, node) for alias in node.names)


def resolves(dotted: str) -> bool:
    """Whether `package.module.name.member` leads to something."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        if (file := module_file(parts[:count])) is not None:
            body = ast.parse(file.read_text()).body if file.exists() else []
            return defines(body, parts[count:])
    return False


def defines(body: list[ast.stmt], names: list[str]) -> bool:
    if not names:
        return True
    nodes = [node for name, node in members(body) if name == names[0]]
    inner = [node.body for node in nodes if isinstance(node, ast.ClassDef)]
    return bool(nodes) and (len(names) == 1 or any(defines(body, names[1:]) for body in inner))


@cache
def trees() -> list[ast.Module]:
    files = (file for folder in FOLDERS for file in ROOT.glob(f"{folder}/**/*.py"))
    return [ast.parse(file.read_text()) for file in (*files, ROOT / "launcher.py")]


@cache
def class_members() -> set[str]:
    classes = (
        node for tree in trees() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    return {name for node in classes for name, _ in members(node.body)}


def is_defined(name: str) -> bool:
    """Whether some module defines `name` or `Class.member`, a class a member, or it is a string."""
    parts = name.split(".")
    known = name in class_members() or name in strings()
    return known or any(defines(tree.body, parts) for tree in trees_by_name().get(parts[0], []))


@cache
def trees_by_name() -> dict[str, list[ast.Module]]:
    """The modules that define or import each name."""
    found: dict[str, list[ast.Module]] = {}
    for tree in trees():
        for name, _ in members(tree.body):
            found.setdefault(name, []).append(tree)
    return found


@cache
def strings() -> set[str]:
    nodes = (node for tree in trees() for node in ast.walk(tree))
    return {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@cache
def flags() -> set[str]:
    """Options of the configuration, and every `--flag` that a parser of the tree adds."""
    nodes = (node for tree in trees() for node in ast.walk(tree) if isinstance(node, ast.AnnAssign))
    options = (ast.unparse(node.target) for node in nodes if is_option(node.value))
    names = {f"--{name.replace('_', '-')}" for name in options}
    return names | {text for text in strings() if text.startswith("--")}


def is_option(value: ast.expr | None) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func) == "option"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_path_on_a_page_exists(page: Path) -> None:
    assert [span for span in spans(page) if is_path(span) and not exists(span)] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_dotted_name_on_a_page_resolves(page: Path) -> None:
    dotted = [span for span in spans(page) if _DOTTED.fullmatch(span) and not is_path(span)]
    in_tree = [span for span in dotted if span.split(".")[0] in FOLDERS]
    assert [span for span in in_tree if not resolves(span)] == []


@pytest.mark.parametrize("page", MAPS, ids=str)
def test_every_name_on_a_page_about_the_code_is_defined(page: Path) -> None:
    names = [span for span in spans(page) if _NAME.fullmatch(span) and not is_path(span)]
    coded = [
        span for span in names if re.search("[A-Z_]", span) and span.split(".")[0] not in FOLDERS
    ]
    assert [name for name in coded if not is_defined(name)] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_flag_on_a_page_exists(page: Path) -> None:
    named = {flag for span in spans(page) for flag in _FLAG.findall(span)}
    prefixes = {flag for flag in named if flag.endswith("-")}  # `--rope-*`
    unknown = named - flags() - prefixes
    assert sorted(unknown) == []
    assert all(any(flag.startswith(prefix) for flag in flags()) for prefix in prefixes)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_on_a_page_exists(page: Path) -> None:
    text = (ROOT / page).read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    make_targets = {name for span in spans(page) for name in re.findall(r"^make ([a-z-]+)", span)}
    assert set(re.findall(r"python -m benchmark ([a-z-]+)", text)) <= set(COMMANDS)
    assert make_targets <= targets


@pytest.mark.parametrize("page", [*PAGES, Path("docs/style.md")], ids=str)
def test_every_link_on_a_page_leads_to_a_file(page: Path) -> None:
    folder = (ROOT / page).parent
    targets = _LINK.findall((ROOT / page).read_text())
    assert [target for target in targets if not (folder / target).exists()] == []


def recipes() -> dict[str, str]:
    """The text under each `###` heading of CONTRIBUTING."""
    parts = re.split(r"^### (.+)$", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("title", RECIPES)
def test_each_recipe_names_files_of_the_product_and_the_test_that_holds_it(title: str) -> None:
    paths = [span for span in _SPAN.findall(recipes()[title]) if is_path(span)]
    assert any(path.startswith(("router/", "shard/")) for path in paths)
    assert any(path.startswith("tests/") for path in paths)
