"""The page of figures: tables between marks are written again, all else stays."""

from __future__ import annotations

import pytest

from benchmark import report

FIGURES = {
    "startup.json": {
        "startup.first_token_seconds": 5.0,
        "startup.seconds_over_llama_cpp": 1.5,
        "startup.phase.imports": 2.25,
        "other": 1.0,
    }
}
PAGE = """Text.

<!-- startup.json startup. -->
what was here
<!-- end -->

More text.
"""
REBUILT = """Text.

<!-- startup.json startup. -->
| figure | value | target |
|---|---|---|
| `startup.first_token_seconds` | 5 | ≤ 4, missed by 25% |
| `startup.seconds_over_llama_cpp` | 1.5 | ≤ 2 |
| `startup.phase.imports` | 2.25 |  |
<!-- end -->

More text.
"""


def test_only_tables_are_written_again() -> None:
    assert report.rebuild(PAGE, FIGURES) == REBUILT
    assert report.rebuild(REBUILT, FIGURES) == REBUILT


@pytest.mark.parametrize(
    ("value", "text"), [(1.2, "≥ 1.2"), (0.9, "≥ 1.2, missed by 25%"), (5.0, "≥ 1.2")]
)
def test_a_figure_of_which_more_is_better_is_judged(value: float, text: str) -> None:
    assert report.target("peers.plain_b32_over_llama_cpp", value) == text


def test_a_table_of_a_file_without_figures_is_refused() -> None:
    with pytest.raises(KeyError):
        report.rebuild(PAGE, {})


def test_the_page_has_the_figures_of_the_result_files() -> None:
    page = report.PAGE.read_text()
    assert report.rebuild(page, report.read_figures(report.RESULTS)) == page
