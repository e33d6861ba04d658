"""Import transformers without what a rank never runs: torch's compiler and its sharded tensors.

transformers marks functions for `torch.compile` with decorators that load the compiler, a thousand
modules, and it imports the tensors and checkpoints of `torch.distributed`. A rank compiles nothing
and shards by itself. While `import_transformers` runs, these decorators return the function
unchanged, and transformers sees a torch that was built without `torch.distributed`. Code that
uses anything else of the compiler, in another version or later, loads it then. transformers would
also read the sources of all its models a second time, which gives the same names. Knows no model.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

DECORATORS = frozenset(("allow_in_graph", "assume_constant_result", "disable"))
"""Decorators of `torch.compiler` and `torch._dynamo` that only inform the compiler."""
DYNAMO = "torch._dynamo"


SHARED_MODULES = (
    "transformers.masking_utils",
    "transformers.modeling_layers",
    "transformers.models.auto.modeling_auto",
)
"""What every model of transformers needs."""


def import_transformers() -> None:
    """Import those of `SHARED_MODULES` that there are, without the compiler unless it is loaded."""
    if DYNAMO not in sys.modules:
        with _without_compiler():
            for name in filter(find_spec, SHARED_MODULES):
                importlib.import_module(name)


@contextmanager
def _without_compiler() -> Iterator[None]:
    import torch.compiler

    dynamo = Decorators(DYNAMO)
    utils = importlib.import_module("transformers.utils")
    import_utils = importlib.import_module("transformers.utils.import_utils")
    with ExitStack() as stack:
        for names, name, value in (
            *((vars(torch.compiler), decorator, _undecorated) for decorator in DECORATORS),
            (vars(torch), "_dynamo", dynamo),
            (sys.modules, DYNAMO, dynamo),
            (vars(utils), "is_torch_distributed_available", lambda: False),
            (vars(import_utils), "is_torch_distributed_available", lambda: False),
            *_once_per_folder(vars(import_utils), "create_import_structure_from_path"),
        ):
            stack.enter_context(replaced(names, name, value))
        yield


class Decorators(ModuleType):
    """Stands for a package of which only `DECORATORS` and submodules are expected to be used.

    Any other name imports the package, which then replaces this module.
    """

    def __init__(self, package: str) -> None:
        super().__init__(package)
        spec = find_spec(package)
        self.__path__ = list(spec.submodule_search_locations or ()) if spec else []

    def __getattr__(self, name: str) -> Any:
        if name in DECORATORS:
            return _undecorated
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _undecorated(function: Any = None, **options: Any) -> Any:
    """`function` itself; without one, the decorator, which was called with options only."""
    return _undecorated if function is None else function


def _once_per_folder(
    names: MutableMapping[str, Any], scan: str
) -> Iterator[tuple[MutableMapping[str, Any], str, Any]]:
    """The replacement of `scan`, whose cache then has one entry for a package and for its folder.

    None if this version has no such function.
    """
    if function := names.get(scan):
        yield names, scan, lambda path: function(_folder(Path(path)))


def _folder(path: Path) -> Path:
    return path.parent if path.is_file() else path


@contextmanager
def replaced(names: MutableMapping[str, Any], name: str, value: Any) -> Iterator[None]:
    """Inside, `name` is `value` in `names`, where it may be missing before.

    What replaces `value` meanwhile stays.
    """
    missing = object()
    before = names.get(name, missing)
    names[name] = value
    try:
        yield
    finally:
        if names.get(name) is not value:
            pass
        elif before is missing:
            del names[name]
        else:
            names[name] = before
