"""No process of the server imports anything from the folder in which the server is started."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from signal import SIGTERM

import pytest

import launcher
from shard.child_command import INSTALL_ROOT, python_command, python_environment
from shard.launch.model_source import ModelFolders
from tests.support.nightly import nightly
from tests.support.paths import ROOT
from tests.support.processes import Processes

PRODUCT = sorted((*ROOT.glob("*.py"), *ROOT.glob("router/**/*.py"), *ROOT.glob("shard/**/*.py")))
STARTS = {
    ("subprocess", "Popen"),
    ("subprocess", "run"),
    ("subprocess", "call"),
    ("subprocess", "check_call"),
    ("subprocess", "check_output"),
    ("asyncio", "create_subprocess_exec"),
    ("asyncio", "create_subprocess_shell"),
    ("os", "system"),
    ("os", "popen"),
    ("os", "execv"),
    ("os", "execve"),
    ("os", "execvp"),
    ("os", "posix_spawn"),
    ("os", "fork"),
}
"""Calls that start a process."""
LIBRARIES = (
    *("aiohttp", "jinja2", "llguidance", "msgpack", "numpy", "orjson", "prometheus_client"),
    *("pydantic", "safetensors", "tokenizers", "torch", "transformers"),
)
"""Modules that some process of the server imports."""


def calls(path: Path) -> Iterator[tuple[str, str]]:
    """Module and function of each call of the form `module.function()` in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id=module), attr=function)):
                yield module, function


def test_python_processes_are_started_in_two_places_only() -> None:
    starting = {str(path.relative_to(ROOT)) for path in PRODUCT if STARTS & {*calls(path)}}
    other_programs = {"router/cli/environment_report.py", "shard/launch/memory_estimate.py"}
    assert starting - other_programs == {"router/text/worker_pool.py", "shard/launch/child.py"}


def test_the_interpreter_is_named_by_one_function_only() -> None:
    naming = [path.name for path in PRODUCT if "sys.executable" in path.read_text()]
    assert naming == ["child_command.py"]
    importing = [path for path in PRODUCT if "multiprocessing" in path.read_text()]
    assert importing == []


def test_every_command_of_the_launcher_keeps_the_current_folder_out_of_the_path(
    tmp_path: Path,
) -> None:
    options = launcher.parse([], {})
    models = ModelFolders(tmp_path, None, "target", None)
    commands = [
        launcher.shard_command(options, models, ("a",), 0, tmp_path),
        launcher.router_command(options, models, ("a",), 9),
    ]
    modules = ["shard", "router"]
    assert [tuple(each.argv) for each in commands] == [*map(python_command, modules)]
    assert python_command("x", "y") == (sys.executable, "-P", "-m", "x", "y")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, []),
        ("", []),
        (":", []),
        ("/a", ["/a"]),
        (":/a", ["/a"]),
        ("/a:", ["/a"]),
        ("/a::/b", ["/a", "/b"]),
        (".", []),
        ("./x:/a", ["/a"]),
        ("x/y:..", []),
    ],
)
def test_entries_of_pythonpath_that_depend_on_the_current_folder_are_left_out(
    given: str | None, kept: list[str]
) -> None:
    environment = {"HOME": "/h"} | ({} if given is None else {"PYTHONPATH": given})
    result = python_environment(environment)
    assert result["PYTHONPATH"].split(os.pathsep) == [str(INSTALL_ROOT), *kept]
    assert (result["HOME"], result["PYTHONSAFEPATH"]) == ("/h", "1")


@pytest.mark.parametrize("pythonpath", ["", ":", ".", "::", "./"])
def test_a_child_and_its_own_children_import_nothing_from_the_current_folder(
    tmp_path: Path, pythonpath: str
) -> None:
    (tmp_path / "poisoned.py").write_text("print('executed')")
    code = "import importlib.util as u; print(u.find_spec('poisoned'))"
    child = f"import subprocess, sys; {code}; subprocess.run([sys.executable, '-c', {code!r}])"
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "harmless_child.py").write_text(child)
    path = f"{pythonpath}:{tmp_path / 'lib'}"
    result = subprocess.run(
        python_command("harmless_child"),
        env=python_environment(os.environ | {"PYTHONPATH": path}),
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    assert result.stdout == b"None\nNone\n"


@pytest.mark.parametrize("engine", [("--echo",), nightly(())])
def test_a_server_started_in_a_folder_of_poisoned_modules_executes_none(
    processes: Processes, tmp_path: Path, engine: tuple[str, ...]
) -> None:
    for name in LIBRARIES:
        poison = f"open({str(tmp_path / 'executed')!r}, 'a').write({name!r})\nraise SystemExit(3)\n"
        (tmp_path / f"{name}.py").write_text(poison)
    address = ("--hostname", "127.0.0.1", "-p", "0")
    running = processes.start(
        str(ROOT / "launcher.py"), *address, *engine, cwd=tmp_path, env={"PYTHONPATH": ":"}
    )
    url = running.url()
    message = {"role": "user", "content": "Hello"}
    assert post(f"{url}/v1/chat/completions", {"messages": [message], "max_tokens": 2})
    running.signal(SIGTERM)
    assert running.end() == 0
    assert not (tmp_path / "executed").exists()


def post(url: str, body: Mapping[str, object]) -> bytes:
    head = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), head)
    with urllib.request.urlopen(request, timeout=30) as response:
        content: bytes = response.read()
        return content
