"""The launcher as a process: its output, its exit status, and that no process is left behind."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, SIGUSR1
from typing import Any

import pytest

import launcher
from router.cli import config_file
from router.cli.startup_lines import exposure_warning
from shard.config import DEFAULT_DRAFT_LENGTH
from shard.errors import StartupError
from shard.launch.model_source import ModelFolders
from shard.launch.restart_policy import MAX_RESTARTS
from tests.support.nightly import nightly
from tests.support.paths import ROOT
from tests.support.processes import Processes, Running

READY = {"event": "ready"}
GOOD = {"events": [READY]}
DRAINS = {"events": [READY], "drains": True}


@dataclass(frozen=True)
class Launch:
    """Starts the launcher with stand-ins for its children."""

    processes: Processes
    model: Path

    def __call__(
        self, *shards: dict[str, Any], router: dict[str, Any] = DRAINS, **more: Any
    ) -> Running:
        """Start it with one rank for each of `shards`; `more` is passed to the process."""
        plan = json.dumps({"shards": shards, "router": router} | more.pop("plan", {}))
        flags = ["--echo", "--model-id", str(self.model), "--port", "0", "--hostname", "127.0.0.1"]
        flags += ["--num-shard", str(len(shards)), *more.pop("flags", ())]
        script = str(ROOT / "tests" / "support" / "stand_in_launcher.py")
        return self.processes.start(script, plan, *flags, **more)

    def child(self, running: Running, word: str = "pid") -> int:
        """The process id in the next line of the form `word 123.`; ended with the test."""
        found = re.search(rf"{word} (\d+)\.", running.line(f"{word} "))
        assert found
        return self.processes.watch(int(found[1]))


@pytest.fixture
def launch(processes: Processes, tmp_path: Path) -> Launch:
    return Launch(processes, tmp_path)


def test_connected_is_logged_after_every_rank_and_the_router_are_ready(launch: Launch) -> None:
    running = launch(GOOD, GOOD)
    url = re.search(r"http://127\.0\.0\.1:\d+", running.line("Connected"))
    assert url
    assert f"curl {url[0]}/generate" in running.lines[-1]
    ready = [line for line in running.lines if line.startswith("Shard ready in ")]
    assert {line.rpartition(" ")[2] for line in ready} == {"rank=0", "rank=1"}


def test_sigterm_drains_the_router_then_ends_the_shards_with_exit_0(
    launch: Launch, processes: Processes
) -> None:
    running = launch(GOOD)
    shard, router = launch.child(running), launch.child(running)
    running.line("Connected")
    running.signal(SIGTERM)
    running.line("router: router received SIGTERM")
    assert running.end() == 0
    assert processes.has_ended(router)
    assert processes.has_ended(shard)


def test_ctrl_c_drains_as_well(launch: Launch) -> None:
    running = launch(GOOD)
    running.line("Connected")
    running.signal(SIGINT)
    assert running.end() == 0


def test_requests_that_outlive_the_grace_period_are_cancelled_and_the_exit_is_still_0(
    launch: Launch,
) -> None:
    running = launch(GOOD, router=GOOD | {"ignores_eof": True}, flags=["-g", "0"])
    running.line("Connected")
    running.signal(SIGTERM)
    assert running.end() == 0
    assert any("are cancelled" in line for line in running.lines)


def test_a_second_signal_aborts_with_exit_1_and_leaves_no_process(
    launch: Launch, processes: Processes
) -> None:
    running = launch(GOOD | {"ignores_eof": True}, router=GOOD | {"ignores_eof": True})
    children = launch.child(running), launch.child(running)
    running.line("Connected")
    running.signal(SIGTERM)
    running.line("router received SIGTERM")
    running.signal(SIGTERM)
    assert running.end() == 1
    assert "Error: Aborted" in running.lines[-1]
    assert all(map(processes.has_ended, children))


def test_sigterm_while_a_shard_loads_exits_0_even_if_the_shard_ignores_it(
    launch: Launch, processes: Processes
) -> None:
    running = launch({"ignores_eof": True})
    shard = launch.child(running)
    running.signal(SIGTERM)
    assert running.end() == 0
    assert processes.has_ended(shard)


EARLY = """
import os, signal, sys

moment, number = sys.argv[1], int(sys.argv[2])
sys.argv = ["launcher.py", *sys.argv[3:]]

class SignalOnImport:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            os.kill(os.getpid(), number)

sys.meta_path.insert(0, SignalOnImport())
import launcher

def signal_before(function):
    def call(*args):
        os.kill(os.getpid(), number)
        return function(*args)
    return call

if callable(getattr(launcher, moment, None)):
    setattr(launcher, moment, signal_before(getattr(launcher, moment)))
sys.exit(launcher.main())
"""
"""Sends itself a signal when a module is first imported, or a function of the launcher called."""


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("argparse", SIGTERM),
        ("asyncio", SIGTERM),
        ("asyncio", SIGINT),
        ("router.cli.flags", SIGTERM),
        ("shard.launch.serving", SIGINT),
        ("parse", SIGTERM),
        ("log_startup", SIGINT),
        ("bind", SIGTERM),
        ("run_folder", SIGTERM),
        ("run", SIGTERM),
    ],
)
def test_a_signal_in_the_first_moments_of_a_start_ends_it_quietly_with_exit_0(
    processes: Processes, tmp_path: Path, moment: str, number: int
) -> None:
    flags = ("--echo", "--model-id", str(tmp_path), "-p", "0", "--hostname", "127.0.0.1")
    environment = {"TMPDIR": str(tmp_path)}
    running = processes.start("-c", EARLY, moment, str(int(number)), *flags, env=environment)
    assert running.end() == 0
    assert running.lines == ["Stopped before the server was ready"]
    assert not [*tmp_path.iterdir()]


def test_an_error_in_the_command_line_keeps_its_status_after_an_early_signal(
    processes: Processes,
) -> None:
    running = processes.start("-c", EARLY, "parse", str(int(SIGTERM)), "--port", "x")
    assert running.end() == 2


def test_a_fault_of_a_shard_is_one_line_and_its_code_is_the_exit_status(launch: Launch) -> None:
    fault = {"event": "fault", "code": 4, "text": "model.safetensors is cut short"}
    running = launch({"events": [fault], "exit": 4})
    assert running.end() == 4
    assert running.lines[-1] == "Error: ModelRefused: model.safetensors is cut short"
    assert not any("Traceback" in line for line in running.lines)


def test_a_shard_that_dies_at_startup_is_reported_with_rank_status_and_last_stderr(
    launch: Launch,
) -> None:
    running = launch(GOOD | {"ignores_eof": True}, {"stderr": ["no memory left"], "exit": 3})
    assert running.end() == 8
    text = "\n".join(running.lines)
    assert "Error: ShardCannotStart: rank 1 ended with status 3 before it was ready" in text
    assert "rank 1: no memory left" in text
    assert running.lines[-1] == "  no memory left"


def test_a_router_that_dies_at_startup_is_reported_as_the_webserver(launch: Launch) -> None:
    running = launch(GOOD, router={"exit": 1})
    assert running.end() == 8
    assert any(line.startswith("Error: WebserverCannotStart: router") for line in running.lines)


HANGS = {"event": "shards_failed", "generation": 1, "text": "a step exceeded its timeout"}


def test_a_shard_killed_at_run_time_is_started_again_with_all_others_and_the_router_stays(
    launch: Launch, processes: Processes
) -> None:
    running = launch(*[GOOD | {"stderr": ["last words"], "ignores_eof": True}] * 2)
    *shards, router = (launch.child(running) for _ in range(3))
    running.line("Connected")
    os.kill(shards[0], SIGKILL)
    cause = running.line("Restarting the shards in 0.01 s: ShardFailed: rank ")
    assert cause.endswith(" ended by SIGKILL; last lines of its stderr:")
    assert running.line("  last words")
    assert all(map(processes.has_ended, shards))
    later = {launch.child(running), launch.child(running)}
    assert later.isdisjoint(shards)
    running.line('router received {"generation": 2}')
    running.signal(SIGTERM)
    running.line("router: router received SIGTERM")
    assert running.end() == 0
    assert all(map(processes.has_ended, (*later, router)))


def test_shards_that_the_router_reports_as_failed_are_killed_and_started_again(
    launch: Launch, processes: Processes
) -> None:
    router = DRAINS | {"on_sigusr1": HANGS}
    running = launch(GOOD | {"ignores_eof": True}, router=router)
    shard, server = launch.child(running), launch.child(running)
    running.line("Connected")
    os.kill(server, SIGUSR1)
    running.line("Restarting the shards in 0.01 s: ShardFailed: a step exceeded its timeout")
    assert processes.has_ended(shard)
    launch.child(running)
    running.line('router received {"generation": 2}')
    os.kill(server, SIGUSR1)  # about the first start again, which is over
    running.signal(SIGTERM)
    assert running.end() == 0
    assert sum(line.startswith("Restarting") for line in running.lines) == 1


def test_a_dead_shard_is_reported_as_the_cause_even_if_the_router_reports_first(
    launch: Launch,
) -> None:
    running = launch(GOOD, router=DRAINS | {"on_sigusr1": HANGS})
    shard, router = launch.child(running), launch.child(running)
    running.line("Connected")
    os.kill(router, SIGUSR1)
    os.kill(shard, SIGKILL)
    assert "ShardFailed: rank 0 ended by SIGKILL" in running.line("Restarting the shards in ")


def test_a_dead_shard_is_noticed_although_its_own_child_holds_the_pipes(launch: Launch) -> None:
    running = launch(GOOD | {"fork": True})
    shard = launch.child(running)
    launch.child(running, "fork")
    running.line("Connected")
    os.kill(shard, SIGKILL)
    running.line("Restarting the shards in ")


def test_shards_that_fail_too_often_end_everything_with_exit_1(
    launch: Launch, processes: Processes
) -> None:
    running = launch(GOOD | {"stderr": ["last words"]})
    shard, router = launch.child(running), launch.child(running)
    running.line("Connected")
    for _ in range(MAX_RESTARTS):
        os.kill(shard, SIGKILL)
        shard = launch.child(running)
        running.line("Shards restarted in ")
    os.kill(shard, SIGKILL)
    assert running.end() == 1
    assert sum(line.startswith("Restarting") for line in running.lines) == MAX_RESTARTS
    error = next(line for line in running.lines if line.startswith("Error:"))
    assert error.startswith("Error: ShardFailed: rank 0 ended by SIGKILL")
    assert running.lines[-1] == "  last words"
    assert processes.has_ended(router)


def test_a_shard_that_cannot_be_started_again_is_tried_again_then_ends_everything(
    launch: Launch, tmp_path: Path
) -> None:
    fault = {"event": "fault", "code": 6, "text": "no memory left"}
    running = launch(GOOD | {"once": str(tmp_path / "started"), "again": {"events": [fault]}})
    shard = launch.child(running)
    running.line("Connected")
    os.kill(shard, SIGKILL)
    assert running.end() == 1
    assert running.lines[-1] == "Error: no memory left"
    assert sum(line.startswith("Restarting") for line in running.lines) == MAX_RESTARTS


def test_a_server_drains_while_its_shards_are_started_again(launch: Launch, tmp_path: Path) -> None:
    again = {"once": str(tmp_path / "started"), "again": {"ignores_eof": True, "events": []}}
    running = launch(GOOD | again)
    shard = launch.child(running)
    running.line("Connected")
    os.kill(shard, SIGKILL)
    running.line("Restarting the shards in ")
    launch.child(running)
    running.signal(SIGTERM)
    running.line("router: router received SIGTERM")
    assert running.end() == 0


def test_a_router_killed_at_run_time_is_started_again_and_the_shards_stay(
    launch: Launch, processes: Processes
) -> None:
    running = launch(GOOD, router=DRAINS | {"stderr": ["last words"]})
    shard, router = launch.child(running), launch.child(running)
    running.line("Connected")
    os.kill(shard, SIGKILL)  # so that the shards' generation is not the first
    shard = launch.child(running)
    running.line('router received {"generation": 2}')
    os.kill(router, SIGKILL)
    cause = running.line("Restarting the router in 0.01 s: ")
    assert "WebserverFailed: router ended by SIGKILL; last lines of its stderr:" in cause
    router = launch.child(running)
    running.line("Router restarted in ")
    os.kill(shard, SIGKILL)
    shard = launch.child(running)
    running.line('router received {"generation": 3}')
    running.signal(SIGTERM)
    running.line("router: router received SIGTERM")
    assert running.end() == 0
    assert processes.has_ended(router)
    assert processes.has_ended(shard)


def test_a_router_and_a_shard_that_die_together_are_both_started_again(
    launch: Launch, processes: Processes
) -> None:
    running = launch(GOOD)
    shard, router = launch.child(running), launch.child(running)
    running.line("Connected")
    os.kill(router, SIGKILL)
    os.kill(shard, SIGKILL)
    assert processes.has_ended(router)
    lines = {running.line(" restarted in ").split()[0] for _ in range(2)}
    assert lines == {"Router", "Shards"}
    running.signal(SIGTERM)
    assert running.end() == 0


def test_shards_are_started_again_with_the_limits_that_the_router_has_reported(
    launch: Launch,
) -> None:
    ready = READY | {"shard_limits": {"stderr": ["the limits of the first start"]}}
    running = launch(GOOD, router=DRAINS | {"events": [ready]})
    shard = launch.child(running)
    running.line("Connected")
    os.kill(shard, SIGKILL)
    running.line("rank 0: the limits of the first start")


def test_a_router_that_fails_too_often_ends_everything_with_exit_1(
    launch: Launch, processes: Processes
) -> None:
    running = launch(GOOD | {"ignores_eof": True})
    shard, router = launch.child(running), launch.child(running)
    running.line("Connected")
    for _ in range(MAX_RESTARTS):
        os.kill(router, SIGKILL)
        router = launch.child(running)
        running.line("Router restarted in ")
    os.kill(router, SIGKILL)
    assert running.end() == 1
    assert any(line.startswith("Error: WebserverFailed: router") for line in running.lines)
    assert processes.has_ended(shard)


def test_shards_that_a_new_router_cannot_connect_to_are_started_again(
    launch: Launch, processes: Processes, tmp_path: Path
) -> None:
    fault = {"event": "fault", "code": 8, "text": "cannot connect to the shards"}
    again = {"once": str(tmp_path / "started"), "again": {"events": [fault], "exit": 8}}
    running = launch(GOOD | {"ignores_eof": True}, router=DRAINS | again)
    shard, router = launch.child(running), launch.child(running)
    running.line("Connected")
    os.kill(router, SIGKILL)
    running.line("Restarting the shards in 0.01 s: ShardFailed: cannot connect to the shards")
    assert processes.has_ended(shard)


def test_a_signal_while_there_is_no_router_ends_the_server_with_exit_0(
    launch: Launch, processes: Processes, tmp_path: Path
) -> None:
    again = {"once": str(tmp_path / "started"), "again": {"events": []}}
    running = launch(GOOD, router=DRAINS | again)
    shard, router = launch.child(running), launch.child(running)
    running.line("Connected")
    os.kill(router, SIGKILL)
    launch.child(running)
    running.signal(SIGTERM)
    assert running.end() == 0
    assert processes.has_ended(shard)


def test_killing_the_launcher_leaves_no_child_even_if_it_ignores_signals(
    launch: Launch, processes: Processes
) -> None:
    running = launch(GOOD | {"ignores_eof": True}, router=GOOD | {"ignores_eof": True})
    children = launch.child(running), launch.child(running)
    running.line("Connected")
    running.signal(SIGKILL)
    assert all(map(processes.has_ended, children))


def test_a_port_in_use_is_reported_before_any_child_starts(launch: Launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        running = launch(GOOD, flags=["--port", str(port)])
        assert running.end() == 5
    (line,) = running.lines
    assert line.startswith(f"Error: PortInUse: port {port} is in use by process {os.getpid()} (")
    assert re.search(r"port \d+ is free", line)


def test_two_servers_that_both_load_cannot_share_a_port(launch: Launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    first = launch({"ignores_eof": True}, flags=["--port", port])
    first.line("pid ")
    assert launch(GOOD, flags=["--port", port]).end() == 5


def test_connections_are_refused_before_the_server_is_ready(launch: Launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    launch({"ignores_eof": True}, flags=["--port", str(port)]).line("pid ")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_with_json_output_every_line_is_an_object(launch: Launch) -> None:
    noisy = GOOD | {"stderr": ["plain words", '{"level": "INFO"}'], "stdout": "a stray print\n"}
    running = launch(noisy, flags=["--json-output"])
    running.line("Connected")
    running.signal(SIGTERM)
    assert running.end() == 0
    lines = [json.loads(line) for line in running.lines]
    assert {"ready", "connected", "progress"} <= {line.get("event") for line in lines}
    phases = [line["seconds"] for line in lines if line.get("event") in ("progress", "ready")]
    assert min(phases) > 0
    assert {"plain words", "a stray print"} <= {line.get("message") for line in lines}
    assert {"level": "INFO"} in lines


LOADING = {"event": "progress", "text": "loading: 3 of 6 MB", "percent": 50}


def launch_on_terminal(
    processes: Processes, model: Path, *ranks: dict[str, Any], **environment: str
) -> Running:
    plan = json.dumps({"shards": ranks, "router": DRAINS})
    script = str(ROOT / "tests" / "support" / "stand_in_launcher.py")
    flags = ("--echo", "--model-id", str(model), "--port", "0", "--hostname", "127.0.0.1")
    environment = {"TERM": "xterm", "COLUMNS": "100"} | environment
    shards = ("--num-shard", str(len(ranks)))
    return processes.start_on_terminal(script, plan, *flags, *shards, env=environment)


def without_style(line: str) -> str:
    """What is visible of a line in the end: no control sequences, nothing that was overwritten."""
    return re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", line.rstrip().rpartition("\r")[2]).strip()


def test_on_a_terminal_each_child_has_a_row_and_the_address_follows(
    processes: Processes, tmp_path: Path
) -> None:
    rank = GOOD | {"events": [LOADING, READY]}
    running = launch_on_terminal(processes, tmp_path, rank, rank)
    url = re.search(r"http://127\.0\.0\.1:\d+", running.line("Serving at"))
    assert url
    assert without_style(running.line("Page")).split() == ["Page", f"{url[0]}/ui"]
    assert f"curl {url[0]}/generate" in running.line("Try")
    last = map(without_style, running.lines[-8:])
    rows = [line for line in last if re.match(r"(rank \d|router) .* s  ready$", line)]
    assert {row.partition("━")[0].strip() for row in rows} == {"rank 0", "rank 1", "router"}
    assert not any("Shard ready in" in line for line in running.lines)
    running.signal(SIGTERM)
    assert running.process.wait(timeout=30) == 0


def test_an_error_stands_below_the_last_picture(processes: Processes, tmp_path: Path) -> None:
    fault = {"event": "fault", "code": 4, "text": "model.safetensors is cut short"}
    running = launch_on_terminal(processes, tmp_path, {"events": [fault], "exit": 4})
    line = running.line("Error: ModelRefused: model.safetensors is cut short")
    assert "\x1b[?25h" in "".join(running.lines), "the cursor is visible again"
    assert line.strip().endswith("cut short")
    assert running.process.wait(timeout=30) == 4


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(
    processes: Processes, tmp_path: Path
) -> None:
    running = launch_on_terminal(processes, tmp_path, GOOD, TERM="dumb")
    running.line("Connected: serving at ")
    assert "\x1b" not in "".join(running.lines)


def test_an_endless_line_of_a_child_is_split_at_a_maximum_length(launch: Launch) -> None:
    running = launch(GOOD | {"flood": 1_000_000})
    running.line("Connected")
    assert max(map(len, running.lines)) < 200_000


def test_waiting_for_the_shards_is_logged(launch: Launch) -> None:
    running = launch({"ignores_eof": True}, plan={"remind": 0.01})
    running.line("Waiting for shard to be ready...")


def test_the_run_folder_is_private_and_removed_afterwards(launch: Launch, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    running = launch(GOOD, env={"TMPDIR": str(temporary)})
    running.line("Connected")
    (folder,) = temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    running.signal(SIGTERM)
    assert running.end() == 0
    assert not list(temporary.iterdir())


def test_an_unknown_model_without_network_is_exit_3_and_names_it(
    processes: Processes, tmp_path: Path
) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    running = processes.start(
        str(ROOT / "launcher.py"), "--model-id", "nobody/nothing", "-p", "0", env=offline
    )
    assert running.end() == 3
    assert running.lines[-1].startswith("Error: DownloadError: `nobody/nothing` is not cached")


def test_the_launcher_loads_no_heavy_library(processes: Processes) -> None:
    code = (
        "import sys, launcher\n"
        "try: launcher.main()\n"
        "except SystemExit: pass\n"
        "print('loaded', sorted({n.partition('.')[0] for n in sys.modules}))"
    )
    running = processes.start("-c", code, "--help")
    loaded = running.line("loaded")
    assert running.end() == 0
    for name in ("torch", "transformers", "aiohttp", "huggingface_hub", "pydantic", "msgpack"):
        assert f"'{name}'" not in loaded


def options(*arguments: str, **environment: str) -> launcher.LauncherOptions:
    return launcher.parse(arguments, environment)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--max-input-tokens", "5", "--max-total-tokens", "5"],
            "`max_input_tokens`(5) must be < `max_total_tokens`(5)",
        ),
        (
            ["--max-total-tokens", "9", "--max-batch-total-tokens", "8"],
            "`max_total_tokens` must be <= `max_batch_total_tokens`. Given: 9 and 8",
        ),
        (["--sharded", "true", "--num-shard", "1"], "`sharded` is true but `num_shard` <= 1"),
        (["--num-shard", "0"], "`num_shard` cannot be < 1"),
        (
            ["--max-input-tokens", "5", "--max-input-length", "5"],
            "Both max_input_tokens and max_input_length are set",
        ),
        (["--max-batch-size", "0"], "max_batch_size must be > 0"),
        (["--modle-id", "x"], "unknown argument `--modle-id`; did you mean `--model-id`?"),
        (["--validation-workers", "0"], "`validation_workers` must be > 0"),
        (["--laps-ratio", "1"], "`laps_ratio` must be > 1"),
        (["--port", "65536"], "`port`(65536) must be between 0 and 65535"),
        (["--speculate", "many"], "`speculate` must be an integer or `auto`"),
        (["--speculate", "-1"], "`speculate` cannot be < 0"),
        (["--speculate", "65"], "`speculate`(65) cannot be > 64"),
        (["--quantize", "awq"], "`--quantize` is not supported yet"),
        (["--watermark-gamma", "1"], "`watermark_gamma` must be > 0 and < 1"),
        (["--step-timeout", "0"], "`step_timeout` must be > 0"),
        (["--prefix-cache-per-key"], "`prefix_cache_per_key` needs `api_key` or `api_key_file`"),
        (["--api-key-file", "/nowhere"], "`api_key_file`: /nowhere cannot be read"),
        (["--sharded", "true"], "`sharded` is true but only found 0 CUDA devices"),
    ],
)
def test_argument_errors_have_status_2_and_tgis_words_if_it_has_any(
    processes: Processes, arguments: list[str], text: str
) -> None:
    bare = {"CUDA_VISIBLE_DEVICES": ""}
    running = processes.start(str(ROOT / "launcher.py"), *arguments, env=bare)
    assert running.end() == 2
    assert running.lines == [f"Error: ArgumentValidation: {text}"]


def test_shards_are_counted_from_the_visible_devices() -> None:
    model = options().model
    assert model.shard_count({}) == 1
    assert model.shard_count({"CUDA_VISIBLE_DEVICES": "0,1"}) == 2
    assert model.shard_count({"NVIDIA_VISIBLE_DEVICES": "0,1,2"}) == 3
    assert options("--sharded", "false").model.shard_count({"CUDA_VISIBLE_DEVICES": "0,1"}) == 1
    assert options("--num-shard", "4").model.shard_count({"CUDA_VISIBLE_DEVICES": "0,1"}) == 4


def test_children_receive_the_options(tmp_path: Path) -> None:
    flags = ("--dtype", "bfloat16", "--max-batch-size", "7", "--laps-levels", "5")
    chosen = options(*flags, LOG_LEVEL="warn,text_generation_router=debug")
    models = ModelFolders(tmp_path, tmp_path / "draft", "target", "draft")
    shard = launcher.shard_command(chosen, models, ("a", "b"), 1, tmp_path)
    assert shard.argv[0] == sys.executable
    assert (shard.config["rank"], shard.config["world"], shard.config["socket"]) == (1, 2, "b")
    assert (shard.config["dtype"], shard.config["max_rows"]) == ("bfloat16", 7)
    assert shard.config["speculate"] == DEFAULT_DRAFT_LENGTH
    assert shard.config["log_level"] == logging.WARNING
    router = launcher.router_command(chosen, models, ("a", "b"), 9)
    assert json.loads(json.dumps(router.config))["scheduler"]["laps_levels"] == 5
    assert (router.config["listen_fd"], router.descriptors) == (9, (9,))


@pytest.mark.parametrize(
    ("flags", "drafted"),
    [
        ([], 0),
        (["--speculate", "3"], 3),
        (["--speculate", "auto"], 8),
        (["--speculate", "0"], 0),
        (["--drafter", "suffix"], 16),
        (["--drafter", "suffix", "--speculate", "4"], 4),
    ],
)
def test_without_a_draft_model_nothing_is_drafted_unless_speculate_is_set(
    tmp_path: Path, flags: list[str], drafted: int
) -> None:
    models = ModelFolders(tmp_path, None, "target", None)
    command = launcher.shard_command(options(*flags), models, ("a",), 0, tmp_path)
    assert (command.config["speculate"], command.config["draft_path"]) == (drafted, None)


TGI = {
    "model-id": "m",
    "revision": "r",
    "validation-workers": "3",
    "sharded": "false",
    "num-shard": "1",
    "speculate": "2",
    "dtype": "bfloat16",
    "rope-scaling": "dynamic",
    "rope-factor": "2.0",
    "trust-remote-code": "true",
    "max-concurrent-requests": "7",
    "max-best-of": "3",
    "max-stop-sequences": "3",
    "max-top-n-tokens": "3",
    "max-input-tokens": "8",
    "max-total-tokens": "9",
    "waiting-served-ratio": "0.5",
    "max-batch-prefill-tokens": "16",
    "max-batch-total-tokens": "32",
    "max-waiting-tokens": "4",
    "max-batch-size": "4",
    "cuda-graphs": "1,2",
    "port": "8080",
    "shard-uds-path": "/tmp/sockets",
    "master-addr": "localhost",
    "master-port": "29500",
    "huggingface-hub-cache": "/cache",
    "weights-cache-override": "/weights",
    "disable-custom-kernels": "true",
    "cuda-memory-fraction": "0.5",
    "json-output": "true",
    "otlp-service-name": "name",
    "cors-allow-origin": "https://a.example",
    "api-key": "key",
    "ngrok": "true",
    "ngrok-authtoken": "t",
    "ngrok-edge": "e",
    "tokenizer-config-path": "/template.json",
    "disable-grammar-support": "true",
    "watermark-gamma": "0.25",
    "watermark-delta": "3.0",
    "max-client-batch-size": "5",
    "usage-stats": "off",
    "payload-limit": "1000",
    "enable-prefill-logprobs": "true",
    "prometheus-port": "9000",
    "graceful-termination-timeout": "5",
}
"""TGI's flags with a value each, except `--hostname` and the unsupported ones."""


def test_every_flag_of_tgi_is_a_flag_and_a_variable() -> None:
    flags = [word for name, value in TGI.items() for word in (f"--{name}", value)]
    variables = {name.upper().replace("-", "_"): value for name, value in TGI.items()}
    assert options(*flags) == options(**variables)
    unchanged = options()
    for name, value in TGI.items():
        assert options(f"--{name}", value) != unchanged


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--rope-scaling", "yarn"), "`rope_scaling`: `yarn` is not one of linear, dynamic"),
        (("--rope-factor", "0.5"), "`rope_factor` must be >= 1"),
        (("--rope-factor", "two"), "`rope_factor`: `two` is not of type float"),
    ],
)
def test_a_wrong_scaling_of_positions_is_refused(flags: tuple[str, ...], text: str) -> None:
    with pytest.raises(StartupError, match=re.escape(text)):
        options(*flags)


def test_the_scaling_of_positions_reaches_the_shards(tmp_path: Path) -> None:
    models = ModelFolders(tmp_path, None, "target", None)
    scaled = options(ROPE_SCALING="dynamic", ROPE_FACTOR="2.5")
    config = launcher.shard_command(scaled, models, ("a",), 0, tmp_path).config
    assert (config["rope_scaling"], config["rope_factor"]) == ("dynamic", 2.5)


@pytest.mark.parametrize("name", ["quantize", "kv-cache-dtype"])
def test_unsupported_flags_are_refused_as_variables_too(name: str) -> None:
    text = f"`--{name}` is not supported yet"
    with pytest.raises(StartupError, match=text):
        options(f"--{name}", "x")
    with pytest.raises(StartupError, match=text):
        options(**{name.upper().replace("-", "_"): "x"})


def test_the_variable_hostname_is_ignored() -> None:
    assert options(HOSTNAME="pod-0").server.hostname == "0.0.0.0"
    assert options("--hostname", "127.0.0.1").server.hostname == "127.0.0.1"


@pytest.mark.parametrize(
    ("flags", "warns"),
    [
        ((), True),
        (("--hostname", "::"), True),
        (("--hostname", "127.0.0.1"), False),
        (("--api-key", "k"), False),
        (("--hostname", "::1"), False),
    ],
)
def test_a_server_open_to_everyone_says_so(flags: tuple[str, ...], warns: bool) -> None:
    warning = exposure_warning(options(*flags).server)
    assert (warning is not None) == warns


def test_flags_without_effect_are_named_in_one_warning(launch: Launch) -> None:
    running = launch(GOOD, flags=["--ngrok", "--usage-stats", "off", "--master-port", "29501"])
    running.line("Connected")
    warnings = [line for line in running.lines if line.startswith("Warning: ")]
    assert warnings == [
        "Warning: These flags have no effect: `--master-port`, `--usage-stats`, `--ngrok`"
    ]


def test_api_keys_can_be_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# staff\nsecret\n\n  other \n")
    chosen = options("--api-key-file", str(tmp_path / "keys"), "--api-key", "own")
    assert chosen.server.api_keys() == ("own", "secret", "other")
    chosen = options("--api-key-file", str(tmp_path / "keys"))
    assert options("--config", _saved(chosen, tmp_path)).server == chosen.server
    (tmp_path / "keys").write_text("\n# none\n")
    with pytest.raises(StartupError, match="has no key"):
        options("--api-key-file", str(tmp_path / "keys"))


def _saved(chosen: launcher.LauncherOptions, folder: Path) -> str:
    file = folder / "saved.toml"
    file.write_text("\n".join(config_file.dump(*chosen.serving_configs)), encoding="utf-8")
    return str(file)


def test_the_printed_configuration_reads_back_to_the_same_except_secrets(
    processes: Processes, tmp_path: Path
) -> None:
    flags = ["--model-id", 'a "b" ☃', "--api-key", "hush", "--max-best-of", "3"]
    flags += ["--cors-allow-origin", "https://a.example", "--json-output"]
    flags += ["--measurement-cache", "none"]
    running = processes.start(str(ROOT / "launcher.py"), *flags, "--print-config")
    assert running.end() == 0
    assert "hush" not in "\n".join(running.lines)
    assert "# api_key is secret and set" in running.lines
    file = tmp_path / "config.toml"
    file.write_text("\n".join(running.lines), encoding="utf-8")
    assert (
        options("--config", str(file)).serving_configs
        == options(*flags[:2], *flags[4:]).serving_configs
    )


def test_env_prints_a_report_and_starts_nothing(processes: Processes) -> None:
    running = processes.start(str(ROOT / "launcher.py"), "env", env={"MODEL_ID": "mine"})
    assert running.end() == 0
    for start in ("tgi-laps ", "Python 3.", "torch ", "CPU ", "memory ", "MODEL_ID=mine"):
        assert any(line.startswith(start) for line in running.lines), start


def test_env_refuses_what_it_does_not_know_with_status_2(processes: Processes) -> None:
    running = processes.start(str(ROOT / "launcher.py"), "env", "--jsn")
    assert running.end() == 2
    assert running.lines[-1].endswith("error: unrecognized arguments: --jsn")


def test_check_needs_no_weights(processes: Processes) -> None:
    running = processes.start(str(ROOT / "launcher.py"), "--check", "--port", "0", "--env")
    assert running.end() == 0
    assert running.lines[-1] == "Checked: the server can start"
    for start in ("Python 3.", "torch ", "Models: tgi-laps/demo-target and ", "Memory: weights "):
        assert any(line.startswith(start) for line in running.lines), start


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        nightly(["--max-total-tokens", "9999"], 2, "`max_total_tokens`(9999) must be <= 2048"),
        nightly(
            ["--num-shard", "3"], 2, "`num_shard`(3) must divide the model's 8 attention heads"
        ),
        nightly(
            ["--max-batch-total-tokens", "9999999999"],
            6,
            "lower `--max-batch-total-tokens` to at most ",
        ),
        (["--shard-uds-path", "/nowhere/at/all"], 7, "is not writable"),
    ],
)
def test_check_finds_what_would_prevent_the_start(
    processes: Processes, flags: list[str], code: int, text: str
) -> None:
    running = processes.start(str(ROOT / "launcher.py"), "--check", "--port", "0", *flags)
    assert running.end() == code
    assert text in running.lines[-1]


def test_check_finds_a_port_in_use(processes: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        flags = ("--check", "--hostname", "127.0.0.1", "--port", port)
        assert processes.start(str(ROOT / "launcher.py"), *flags).end() == 5


@pytest.mark.nightly
def test_check_finds_a_broken_tokenizer(processes: Processes, tmp_path: Path) -> None:
    for file in (ROOT / "shard" / "demo" / "target").iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").write_text("{}")
    flags = ("--check", "--port", "0", "--model-id", str(tmp_path))
    running = processes.start(str(ROOT / "launcher.py"), *flags)
    assert running.end() == 4
    assert "Error: ModelRefused: tokenizer: " in running.lines[-1]


@pytest.mark.nightly
def test_weights_can_be_in_another_folder(processes: Processes, tmp_path: Path) -> None:
    demo, model, weights = ROOT / "shard" / "demo" / "target", tmp_path / "m", tmp_path / "w"
    model.mkdir()
    weights.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (model / name).symlink_to(demo / name)
    flags = [str(ROOT / "launcher.py"), "--check", "-p", "0", "--model-id", str(model)]
    running = processes.start(*flags, "--weights-cache-override", str(weights))
    assert running.end() == 4
    assert running.lines[-1].endswith("w holds no *.safetensors file")
    (weights / "model.safetensors").symlink_to(demo / "model.safetensors")
    running = processes.start(*flags, "--weights-cache-override", str(weights))
    assert running.end() == 0
    assert "Memory: weights take 0.02 of " in "\n".join(running.lines)
