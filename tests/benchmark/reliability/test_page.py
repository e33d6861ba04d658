"""The page about reliability is what its command writes, and names only tests that exist."""

from __future__ import annotations

import re

import pytest

from benchmark.__main__ import COMMANDS as SUBCOMMANDS
from benchmark.reliability.page import PAGE, RESULTS, Entry, entries, figures, page
from benchmark.reliability.targets import COMMANDS, COUNTS, FILES, TARGETS
from tests.support.paths import ROOT


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(entries(), figures(RESULTS)), "run `benchmark reliability`"


def test_every_advisory_and_failure_has_an_entry_with_tests_that_exist() -> None:
    covered = entries()
    wanted = [f"S{number}" for number in range(1, 26)] + [f"F{number}" for number in range(1, 21)]
    assert [entry.id for entry in covered] == wanted
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    existing = {name for text in sources for name in re.findall(r"def (test_\w+)", text)}
    assert {name for entry in covered for name in entry.tests} - existing == set()
    assert all(entry.tests for entry in covered)
    measured = {name for entry in covered for name in entry.figures}
    assert measured - {target.figure for target in TARGETS} == set()


@pytest.mark.parametrize("name", FILES)
def test_the_figures_of_each_file_come_from_a_subcommand(name: str) -> None:
    assert COMMANDS.get(name, name) in SUBCOMMANDS
    assert COUNTS[name]
    assert any(target.figure.startswith(f"{name}.") for target in TARGETS)


def test_a_missed_target_and_one_that_was_not_measured_are_shown() -> None:
    text = page(
        [Entry("S1", "title", ("test_a",), ("live.starved",), "gap")], {"overload.goodput": 0.5}
    )
    assert "0 of 26 targets are met; 1 were measured." in text
    assert (
        "| `overload.goodput` | goodput under five times the load | 0.5, **missed** | >= 0.9 |"
        in text
    )
    assert "| `live.starved` | requests that starve in a flood | not measured | <= 0 |" in text
    assert "| S1 | title | `test_a`, `live.starved` | gap |" in text
