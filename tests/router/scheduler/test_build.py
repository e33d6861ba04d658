"""`router.scheduler` itself: the names, and the imports that keep it pure."""

import ast
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import router.scheduler
from router.config import SchedulerConfig
from router.scheduler import POLICY_NAMES, build
from tests.support.virtual_device import capacity

ALLOWED = {"bisect", "collections", "dataclasses", "enum", "heapq", "itertools", "math", "typing"}


LEVELS = {"laps-sd": 4, "laps-sd-paper": 4, "las": 4}


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_each_name_builds_its_scheduler_with_nothing_to_do(name: str) -> None:
    scheduler = build(SchedulerConfig(scheduler=name), capacity())
    assert scheduler.next_batch(0.0) is None
    assert scheduler.status().waiting == (0,) * LEVELS.get(name, 1)


def test_the_flag_offers_every_scheduler() -> None:
    (field,) = (field for field in fields(SchedulerConfig) if field.name == "scheduler")
    assert field.metadata["choices"] == POLICY_NAMES


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown scheduler 'edf'"):
        build(SchedulerConfig(scheduler="edf"), capacity())


def test_the_package_imports_nothing_that_could_read_a_clock_or_a_socket() -> None:
    assert sys.stdlib_module_names >= ALLOWED
    for path in Path(router.scheduler.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                own = name == "router.scheduler" or name.startswith("router.scheduler.")
                top = name.split(".")[0]
                assert own or top in ALLOWED | {"__future__"}, f"{path.name} imports {name}"
