"""Every command, flag and file in the pages exists; `NOT_RUN` says what no test runs, and why.

Programs and requests are run against a server by `tests/clients/bundled/test_snippets.py`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import signal
import tomllib
from collections.abc import Callable
from functools import cache
from typing import Any, get_type_hints
from urllib.request import urlopen

import pytest
import yaml

import launcher
from benchmark.__main__ import COMMANDS
from router.cli.flags import FlagParser
from tests.support.paths import ROOT
from tests.support.processes import Processes
from tests.support.snippets import Command, blocks, commands, inline_code

NOT_RUN = {
    "make": "takes minutes, or runs these tests; targets, variables and flags are checked",
    "python": "benchmarks take minutes; their arguments are parsed",
    "text-generation-launcher": "loads a model; its flags are parsed",
    "pip": "needs a package index",
    "pipx": "needs a package index; the wheel is built by tests/test_packaging.py",
    "docker": "needs Docker; the files are checked by tests/deploy and `make test-deploy`",
    "kubectl": "needs a cluster; the manifests are checked by tests/deploy and `make test-deploy`",
    "helm": "needs a cluster; the chart is rendered by tests/deploy/test_manifests.py",
    "python3": "writes to /opt",
    "cp": "writes to /etc",
    "serve": "needs GPUs; `make test-ray` runs the application with the echo engine",
    "systemctl": "needs systemd; the unit is checked by tests/deploy/test_manifests.py",
}
"""Programs that no test runs with the arguments of the pages, and why."""
RUN = {"curl"}
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))
VARIABLES = set(re.findall(r"^(\w+) \?=", MAKEFILE, re.MULTILINE))
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
OTHER_FLAGS = {
    "--update-golden": "of pytest, in tests/conftest.py",
    "--gpus": "of Docker",
    "--shm-size": "of Docker",
}
"""Flags in the pages that neither the launcher nor a benchmark has."""


def check_make(words: tuple[str, ...]) -> None:
    values = dict(word.split("=", 1) for word in words if "=" in word)
    assert {word for word in words if "=" not in word} <= TARGETS
    assert set(values) <= VARIABLES
    if "serve" in words:
        launcher.parse(values.get("ARGS", "").split(), {})


def check_python(words: tuple[str, ...]) -> None:
    if words[:2] == ("-m", "benchmark"):
        assert words[2] in COMMANDS
        if words[3:]:  # else it only names the benchmark
            benchmark_parser(words[2]).parse_args(words[3:])
    elif words[0] == "launcher.py":
        launcher.parse(words[1:], {})
    else:
        assert (ROOT / words[0]).exists()


def check_launcher(words: tuple[str, ...]) -> None:
    launcher.parse(words, {})


CHECKS: dict[str, Callable[[tuple[str, ...]], None]] = {
    "make": check_make,
    "python": check_python,
    "text-generation-launcher": check_launcher,
}


@cache
def benchmark_parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False)
    module: Any = importlib.import_module(COMMANDS[name][0])
    module.add_arguments(parser)
    return parser


@pytest.mark.parametrize("command", commands(), ids=lambda command: " ".join(command.words)[:60])
def test_a_command_is_run_or_listed_with_a_reason(command: Command) -> None:
    assert command.program in RUN | NOT_RUN.keys()
    if check := CHECKS.get(command.program):
        check(command.words[1:])


def test_the_list_of_what_is_not_run_has_no_more_than_the_pages() -> None:
    assert {command.program for command in commands()} == RUN | NOT_RUN.keys()


def test_every_flag_that_a_page_names_exists() -> None:
    known = {*OTHER_FLAGS, *launcher_flags()}
    for name in COMMANDS:
        known.update(benchmark_parser(name)._option_string_actions)
    named = {(page, flag) for page, text in inline_code() for flag in FLAG.findall(text)}
    assert sorted((page, flag) for page, flag in named if flag not in known) == []


def launcher_flags() -> set[str]:
    """The flags of the launcher, those of TGI that it only recognizes included."""
    groups = get_type_hints(launcher.LauncherOptions)
    parser = FlagParser(groups, "text-generation-launcher", "")
    return set(parser._option_string_actions)


READERS: dict[str, Callable[[str], object]] = {
    "json": json.loads,
    "toml": tomllib.loads,
    "yaml": lambda text: list(yaml.safe_load_all(text)),
}
LANGUAGES = {"", "sh", "python", "ini", *READERS}


def test_blocks_have_a_known_language_and_data_can_be_read() -> None:
    for block in blocks():
        assert block.language in LANGUAGES, block
        if block.language in READERS:
            READERS[block.language](block.text)


@pytest.mark.nightly
def test_the_first_command_of_the_readme_serves(processes: Processes) -> None:
    arguments = ["make", "-o", ".venv/.installed", "serve", "ARGS=--hostname 127.0.0.1 -p 0"]
    program = f"import os; os.execvp('make', {arguments})"
    server = processes.start("-c", program, cwd=ROOT)
    assert urlopen(f"{server.url()}/health").status == 200
    server.signal(signal.SIGTERM)
    server.end()
