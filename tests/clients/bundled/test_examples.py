"""Every program under `examples` runs against the bundled pair and prints what it says."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable

import pytest
from huggingface_hub import InferenceClient

from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"
ISOLATED = {"anthropic_messages"}
"""Run by `make test-clients`, in the environment of its client."""
PRINTS = {
    "openai_chat": r"What does shutil\.copy do\? \(\d+ tokens\)\n.+\nAnd shutil\.move\? .+",
    "sse": r".+\nfinish reason: (length|eos_token)\n",
    "tools": r"add\((\d), (\d)\) = \d+\n.+",
    "json_schema": r"name=['\"].*['\"] size='(small|large)' coastal=(True|False)\n",
    "logprobs": r"(['\"][^\n]+['\"] \d+% \(or [^\n]+ \d+%\)\n){8}",
    "seeds": r".+\n---\n.+\n---\n.+\nthe same in a batch: True, without drafts: True\n",
    "cancel": r"cancelled: status 200\nthe stream ended with 'cancelled'\n",
    "watch_metrics": r"tgi_requests_running \d+  tgi_queue_size \d+  tgi_kv_cache_usage .+\n",
}
"""The whole output of each, with `.` for any character."""
Run = Callable[..., str]


@pytest.fixture
def run(pair: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, pair, *arguments])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize("name", PRINTS)
def test_an_example_prints_what_its_first_lines_say(name: str, run: Run) -> None:
    more = ("1",) if name == "watch_metrics" else ()
    assert re.fullmatch(PRINTS[name], run(name, *more), re.DOTALL)


def test_the_streamed_chat_is_the_whole_one(pair: str, run: Run) -> None:
    question = [{"role": "user", "content": "What does shutil.copy do?"}]
    client = InferenceClient(base_url=pair)
    answer = client.chat_completion(question, max_tokens=30, temperature=0)
    assert run("chat_stream") == f"{answer.choices[0].message.content}\n"


def test_the_sum_that_the_tool_example_prints_is_right(run: Run) -> None:
    match = re.match(r"add\((\d), (\d)\) = (\d+)", run("tools"))
    assert match
    assert int(match[1]) + int(match[2]) == int(match[3])


def test_no_example_is_forgotten() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*PRINTS, *ISOLATED, "chat_stream"}
