"""The prompts and answers of the demo models: what each family holds and what is held out."""

import ast
import subprocess
import sys

import pytest

from benchmark.demo.plain_english import describe_steps
from benchmark.demo.prompts import FAMILIES, chat, examples, prompts, split_body, summary
from benchmark.demo.stdlib_source import definitions


def test_prompts_are_the_same_for_the_same_seed() -> None:
    assert prompts("chat", 20, 3) == prompts("chat", 20, 3)
    assert prompts("chat", 20, 3) != prompts("chat", 20, 4)


def test_no_family_means_all_in_rotation() -> None:
    assert [prompt.family for prompt in prompts(None, 7, 0)] == [*FAMILIES, *FAMILIES, "chat"]


def test_held_out_prompts_are_no_training_prompts() -> None:
    told = {example.prompt.text for example in examples() if not example.held_out}
    asked = {prompt.text for prompt in prompts(None, 300, 0, held_out=True)}
    assert len(asked) > 100
    assert not told & asked


def test_more_prompts_than_there_are_come_back_again() -> None:
    distinct = {example.prompt.text for example in examples() if example.prompt.family == "long"}
    drawn = prompts("long", len(distinct) + 5, 0)
    assert {prompt.text for prompt in drawn} == distinct


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="'poem'"):
        prompts("poem", 1, 0)


def test_one_question_in_eight_follows_a_system_turn() -> None:
    with_system = sum(chat(f"Explain {n}.").startswith("<|system|>") for n in range(800))
    assert 60 < with_system < 140


def test_a_summary_is_the_first_prose_on_one_line() -> None:
    assert summary("One\n  two.\n\nThree.\n\nFour.") == "One two. Three."
    assert summary("A. B. C. D. E.") == "A. B. C. D."
    assert summary("A.\n\n>>> 1 + 1") == "A."


def test_a_body_and_its_head_make_the_source() -> None:
    function = next(d for d in definitions() if d.name == "textwrap.shorten")
    head, body = split_body(function)
    assert head + body == function.source
    assert head.rstrip().endswith('"""')


def test_steps_number_every_statement() -> None:
    text = 'def f(x):\n  "doc"\n  if x:\n    return 1\n  else:\n    x += 2\n  raise E'
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert describe_steps(function) == [
        "If x, go on here.",
        "Return 1.",
        "Otherwise, go on here.",
        "Update x with 2.",
        "Raise E.",
    ]


def test_drawing_prompts_needs_no_torch() -> None:
    draw = "import sys, benchmark.demo.prompts as demo; demo.prompts('chat', 1, 0)"
    code = f"{draw}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
