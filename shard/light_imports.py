"""Import transformers without what a rank never runs: torch's compiler and its sharded tensors.

transformers marks functions for `torch.compile` with decorators that load the compiler, a thousand
modules, and it imports the tensors and checkpoints of `torch.distributed`. A rank compiles nothing
and shards by itself. While `import_transformers` runs, these decorators return the function
unchanged, and transformers sees a torch that was built without `torch.distributed`. Code that
compiles later loads the compiler then. transformers would also read the sources of all its models
a second time, which gives the same names. Knows no model.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, MutableMapping
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
    """Import `SHARED_MODULES` without the compiler, unless they or the compiler are loaded."""
    if DYNAMO not in sys.modules:
        with _without_compiler():
            for name in SHARED_MODULES:
                importlib.import_module(name)


@contextmanager
def _without_compiler() -> Iterator[None]:
    import torch.compiler

    dynamo = _DecoratorsOfDynamo()
    utils = importlib.import_module("transformers.utils")
    import_utils = importlib.import_module("transformers.utils.import_utils")
    scan = import_utils.create_import_structure_from_path
    with ExitStack() as stack:
        for names, name, value in (
            *((vars(torch.compiler), decorator, _undecorated) for decorator in DECORATORS),
            (vars(torch), "_dynamo", dynamo),
            (sys.modules, DYNAMO, dynamo),
            (vars(utils), "is_torch_distributed_available", lambda: False),
            (vars(import_utils), "is_torch_distributed_available", lambda: False),
            (vars(import_utils), scan.__name__, _of_folder(scan)),
        ):
            stack.enter_context(_replaced(names, name, value))
        yield


class _DecoratorsOfDynamo(ModuleType):
    """Stands for the package `torch._dynamo`, whose submodules can be imported, but not itself."""

    def __init__(self) -> None:
        super().__init__(DYNAMO)
        spec = find_spec(DYNAMO)
        self.__path__ = list(spec.submodule_search_locations or ()) if spec else []

    def __getattr__(self, name: str) -> Any:
        if name in DECORATORS:
            return _undecorated
        raise AttributeError(f"{name} of {DYNAMO} is used while transformers is imported")


def _undecorated(function: Any = None, **options: Any) -> Any:
    """`function` itself; without one, the decorator, which was called with options only."""
    return _undecorated if function is None else function


def _of_folder(scan: Callable[[Path], Any]) -> Callable[[str], Any]:
    """`scan`, whose cache then has one entry for a package and for its folder."""
    return lambda path: scan(Path(path).parent if Path(path).is_file() else Path(path))


@contextmanager
def _replaced(names: MutableMapping[str, Any], name: str, value: Any) -> Iterator[None]:
    """Inside, `name` is `value` in `names`, where it may be missing before."""
    missing = object()
    before = names.get(name, missing)
    names[name] = value
    try:
        yield
    finally:
        if before is missing:
            del names[name]
        else:
            names[name] = before
