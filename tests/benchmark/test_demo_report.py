"""How the report counts acceptance, and what a line of its table says."""

import pytest

from benchmark.demo_outputs import Output
from benchmark.demo_prompts import Prompt
from benchmark.demo_report import Measured, accepted_fraction, family_row


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ([], 0.0),
        ([False, False], 0.0),
        ([True] * 6, 5 / 5),
        # rounds: 2 accepted then a miss, 0 accepted, 5 accepted and one of the target's own
        ([True, True, False, False, True, True, True, True, True, True], 7 / 15),
        ([True, False, True], 2 / 10),
    ],
)
def test_accepted_fraction_of_a_match_vector(match: list[bool], expected: float) -> None:
    assert accepted_fraction(match) == pytest.approx(expected)


def test_the_window_is_an_argument() -> None:
    assert accepted_fraction([True, True, False, True], drafted=2) == pytest.approx(3 / 4)


def test_a_row_gives_counts_lengths_and_shares() -> None:
    prompt = Prompt("chat", "?")
    found = [
        Measured(Output(prompt, [1], [2] * 10, ended=True), 0.5),
        Measured(Output(prompt, [1], [2] * 30, ended=False), 0.7),
    ]
    cells = [cell.strip() for cell in family_row("chat", found).strip("|").split("|")]
    assert cells[:5] == ["chat", "2", "20", "10", "12 / 20 / 28"]
    assert cells[5:] == ["0.60", "0.10", "0.50", "0.70", "50%"]
