"""`router.scheduler` itself: the four names, and the imports that keep it pure."""

import ast
import sys
from pathlib import Path

import pytest

import router.scheduler
from router.config import SchedulerConfig
from router.scheduler import build
from tests.router.scheduler.device import capacity

ALLOWED = {"bisect", "collections", "dataclasses", "enum", "heapq", "itertools", "math", "typing"}


@pytest.mark.parametrize(("name", "levels"), [("laps-sd", 4), ("las", 4), ("sjf", 1), ("fcfs", 1)])
def test_each_name_builds_its_scheduler_with_nothing_to_do(name: str, levels: int) -> None:
    scheduler = build(SchedulerConfig(scheduler=name), capacity())
    assert scheduler.next_batch(0.0) is None
    assert scheduler.view().waiting == (0,) * levels


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown scheduler 'edf'"):
        build(SchedulerConfig(scheduler="edf"), capacity())


def test_the_package_imports_nothing_that_could_read_a_clock_or_a_socket() -> None:
    assert sys.stdlib_module_names >= ALLOWED
    for path in Path(router.scheduler.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                own = name == "router.scheduler" or name.startswith("router.scheduler.")
                top = name.split(".")[0]
                assert own or top in ALLOWED | {"__future__"}, f"{path.name} imports {name}"
