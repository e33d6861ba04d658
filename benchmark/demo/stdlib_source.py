"""The running Python's own standard library as a list of public definitions.

Rule: decides which modules the demo models learn from and what counts as a public
definition; must not know prompts, tokens or models. The list of modules is short on
purpose: a model of five million weights can memorise these and could not memorise all.
"""

import ast
import functools
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MODULES = (
    "base64",
    "bisect",
    "cmd",
    "colorsys",
    "copy",
    "csv",
    "filecmp",
    "fnmatch",
    "functools",
    "getopt",
    "glob",
    "graphlib",
    "gzip",
    "heapq",
    "hmac",
    "linecache",
    "queue",
    "random",
    "reprlib",
    "sched",
    "secrets",
    "shlex",
    "shutil",
    "string",
    "tempfile",
    "textwrap",
    "timeit",
)

Kind = Literal["function", "class"]
FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Definition:
    """A public function, method or class: its dotted name, its dedented source, its tree."""

    name: str
    kind: Kind
    source: str
    node: FunctionNode | ast.ClassDef

    @property
    def doc(self) -> str:
        """The cleaned docstring, empty when there is none."""
        return ast.get_docstring(self.node) or ""


@functools.cache
def module_source(module: str) -> str:
    """The text of a module or of a package's own file; raises OSError when there is neither."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    path = folder / f"{module}.py"
    if not path.exists():
        path = folder / module / "__init__.py"
    return path.read_text(encoding="utf-8")


@functools.cache
def module_tree(module: str) -> ast.Module:
    """The syntax tree of a top-level standard library module."""
    return ast.parse(module_source(module))


@functools.cache
def definitions() -> tuple[Definition, ...]:
    """Every public definition of `MODULES`, in source order, each dotted name once."""
    by_name: dict[str, Definition] = {}
    for module in MODULES:
        for definition in _walk(
            module, module_tree(module).body, module_source(module).splitlines()
        ):
            by_name.setdefault(definition.name, definition)
    return tuple(by_name.values())


def _walk(prefix: str, body: list[ast.stmt], lines: list[str]) -> Iterator[Definition]:
    for node in body:
        if not isinstance(node, FunctionNode | ast.ClassDef) or node.name.startswith("_"):
            continue
        name = f"{prefix}.{node.name}"
        source = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
        kind: Kind = "class" if isinstance(node, ast.ClassDef) else "function"
        yield Definition(name, kind, source, node)
        if isinstance(node, ast.ClassDef):
            yield from _walk(name, node.body, lines)
