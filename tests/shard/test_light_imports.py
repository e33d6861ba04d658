"""A rank does not load what it never runs, and leaves torch and transformers as they were."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from shard.light_imports import Decorators, replaced
from tests.support.paths import ROOT
from tests.support.processes import Processes

CODE = """
import sys
import torch.compiler
before = torch.compiler.disable
from shard.light_imports import import_transformers
import_transformers()
import shard.engine
from shard.loading.partition import TensorParallelRank
from shard.loading.load import load
from shard.model.packed_model import PackedModel
cpu, alone = shard.engine.torch.device("cpu"), TensorParallelRank(0, 1)
PackedModel(load("shard/demo/target", None, cpu, alone, lambda *_: None), 100)
from transformers import LlamaForCausalLM
from transformers.utils import import_utils
heavy = ("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "sympy")
print("heavy", [name for name in heavy if name in sys.modules])
print("restored", torch.compiler.disable is before, import_utils.is_torch_distributed_available())
"""
USE = """
print("compiler", torch._dynamo.is_compiling())
"""


def test_a_rank_loads_a_model_without_the_compiler_and_restores_what_it_replaced(
    processes: Processes,
) -> None:
    running = processes.start("-c", CODE, cwd=ROOT)
    assert running.line("heavy").endswith("heavy []")
    assert running.line("restored").endswith("restored True True")
    assert running.end() == 0


@pytest.mark.nightly
def test_the_compiler_is_loaded_when_it_is_used(processes: Processes) -> None:
    running = processes.start("-c", CODE + USE, cwd=ROOT)
    assert running.line("compiler").endswith("compiler False")
    assert running.end() == 0


UNEXPECTED_USE = """
import torch.compiler
from shard import light_imports
with light_imports._without_compiler():
    print("config", torch._dynamo.config.__name__)
import shard.engine
print("compiler", torch._dynamo.is_compiling())
"""


@pytest.mark.nightly
def test_a_version_of_transformers_that_uses_the_compiler_loads_it(processes: Processes) -> None:
    running = processes.start("-c", UNEXPECTED_USE)
    assert running.line("config").endswith("torch._dynamo.config")
    assert running.line("compiler").endswith("compiler False")
    assert running.end() == 0


def test_a_name_that_is_no_decorator_imports_the_package_which_then_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "package_of_decorators"
    (tmp_path / f"{name}.py").write_text("value = 1\ndef disable(function): raise TypeError\n")
    monkeypatch.syspath_prepend(tmp_path)
    with replaced(sys.modules, name, Decorators(name)):
        package = importlib.import_module(name)
        assert package.disable(len) is package.disable(recursive=False)(len) is len
        assert not hasattr(package, "__all__")
        assert name in sys.modules
        assert package.value == 1
    stays = importlib.import_module(name)
    assert stays is not package
    with pytest.raises(TypeError):
        stays.disable(len)
    with pytest.raises(AttributeError):
        _ = package.no_such_name
    del sys.modules[name]


@pytest.mark.parametrize("before", [{}, {"name": 1}])
def test_what_was_replaced_is_restored(before: dict[str, int]) -> None:
    names = dict(before)
    with replaced(names, "name", 2):
        assert names == {"name": 2}
    assert names == before
