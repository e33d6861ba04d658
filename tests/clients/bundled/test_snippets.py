"""The programs and requests that the pages show run against the bundled pair.

`tests/docs/test_commands.py` covers the other commands.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest

from tests.support.snippets import Command, Snippet, blocks, commands

SHOWN_URL = "localhost:3000"
"""The address in the pages."""
ISOLATED = {"docs/messages.md": "needs the client of another environment: `make test-clients`"}
"""Pages whose programs run elsewhere, and why."""
PROGRAMS = [block for block in blocks() if block.language == "python"]
REQUESTS = [command for command in commands() if command.program == "curl"]


def named(snippets: Sequence[Snippet | Command]) -> list[str]:
    """Names of test cases."""
    return [f"{snippet.page} {number}" for number, snippet in enumerate(snippets, 1)]


HERE = [program for program in PROGRAMS if program.page not in ISOLATED]


@pytest.mark.parametrize("program", HERE, ids=named(HERE))
def test_a_program_in_a_page_runs(
    program: Snippet, pair: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = program.text.replace(f"http://{SHOWN_URL}", pair)
    exec(compile(text, program.page, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("request_shown", REQUESTS, ids=named(REQUESTS))
def test_a_request_in_a_page_is_answered(request_shown: Command, pair: str) -> None:
    host = pair.removeprefix("http://")
    words = [word.replace(SHOWN_URL, host) for word in request_shown.words]
    answer = subprocess.run(
        (*words, "--silent", "--fail-with-body"), capture_output=True, timeout=30, check=False
    )
    assert answer.returncode == 0, answer.stdout
    assert answer.stdout
