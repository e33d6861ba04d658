"""How the report counts acceptance, and what a line of its table says."""

from pathlib import Path

import pytest

from benchmark.demo.card import Card, write_card
from benchmark.demo.outputs import Output
from benchmark.demo.prompts import Prompt
from benchmark.demo.report import MeasuredOutput, accepted_fraction, family_row
from benchmark.demo.training import TrainingResult


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
        MeasuredOutput(Output(prompt, [1], [2] * 10, ended=True), 0.5),
        MeasuredOutput(Output(prompt, [1], [2] * 30, ended=False), 0.7),
    ]
    cells = [cell.strip() for cell in family_row("chat", found).strip("|").split("|")]
    assert cells[:5] == ["chat", "2", "20", "10", "12 / 20 / 28"]
    assert cells[5:] == ["0.60", "0.10", "0.50", "0.70", "50%"]


def test_a_card_names_data_seed_and_loss(tmp_path: Path) -> None:
    outcome = TrainingResult(steps=12, tokens=3_400_000, seconds=90.0, loss=1.25)
    write_card(Card("draft", 600_000, 7, outcome), tmp_path)
    text = (tmp_path / "README.md").read_text()
    for part in ("demo draft", "0.60 million", "| seed | 7 |", "1.5 |", "| 3.4 |", "1.250"):
        assert part in text
