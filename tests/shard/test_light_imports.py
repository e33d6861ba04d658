"""A rank does not load what it never runs, and leaves torch and transformers as they were."""

from __future__ import annotations

import pytest

from tests.support.processes import Processes

CODE = """
import sys
import torch.compiler
before = torch.compiler.disable
from shard.light_imports import import_transformers
import_transformers()
import shard.engine
from transformers import LlamaForCausalLM
from transformers.utils import import_utils
heavy = ("torch._dynamo", "torch._inductor", "torch.distributed.tensor", "sympy")
print("heavy", [name for name in heavy if name in sys.modules])
print("restored", torch.compiler.disable is before, import_utils.is_torch_distributed_available())
"""
USE = """
print("compiler", torch._dynamo.is_compiling())
"""


def test_a_rank_loads_no_compiler_and_restores_what_it_replaced(processes: Processes) -> None:
    running = processes.start("-c", CODE)
    assert running.line("heavy").endswith("heavy []")
    assert running.line("restored").endswith("restored True True")
    assert running.end() == 0


@pytest.mark.nightly
def test_the_compiler_is_loaded_when_it_is_used(processes: Processes) -> None:
    running = processes.start("-c", CODE + USE)
    assert running.line("compiler").endswith("compiler False")
    assert running.end() == 0
