"""What the pages about operation and reliability name exists: flags, defaults, metrics, tests."""

from __future__ import annotations

import re
from dataclasses import fields
from functools import cache
from typing import Any

import pytest

from router.config import Limits, ServerConfig
from router.observability.metrics import Metrics
from tests.support.paths import ROOT
from tests.support.serving import BOUNDS, CAPACITY

PAGE = (ROOT / "docs" / "operating.md").read_text()


def rows() -> list[list[str]]:
    """The cells of each row of the table, without its head."""
    table = PAGE.partition("## Every queue and buffer")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@cache
def defaults() -> dict[str, Any]:
    """The default of each flag."""
    settings = (Limits(), ServerConfig())
    return {
        "--" + field.name.replace("_", "-"): getattr(config, field.name)
        for config in settings
        for field in fields(config)
    }


def test_the_table_has_a_row_for_every_bound() -> None:
    assert len(rows()) > 25
    assert all(len(row) == 5 and all(row) for row in rows())


@pytest.mark.parametrize(
    "row", [row for row in rows() if row[1].startswith("`--")], ids=lambda row: row[1]
)
def test_a_flag_of_the_table_exists_and_has_that_default(row: list[str]) -> None:
    default = defaults()[row[1].strip("`")]
    if type(default) in (int, float):
        assert row[2].partition(" ")[0].replace(",", "") == f"{default:.15g}"
    else:
        assert default is None


def test_every_metric_of_the_table_exists() -> None:
    text = Metrics(BOUNDS, CAPACITY).render().decode()
    names = [name for row in rows() for name in re.findall(r"`(tgi_\w+)`", row[3])]
    assert names
    assert [name for name in names if f"# TYPE {name} " not in text] == []


def test_every_test_that_the_page_about_reliability_names_exists() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    sources = (path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    existing = {name for text in sources for name in re.findall(r"def (test_\w+)", text)}
    assert len(named) > 60
    assert named - existing == set()
