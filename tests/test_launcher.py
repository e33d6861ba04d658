"""The launcher as a process: what the operator sees, and what is left when it is gone."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM, SIGUSR1
from typing import Any

import pytest

import launcher
from shard.config import DRAFTED
from tests.conftest import ROOT, Processes, Running

READY = {"event": "ready"}
GOOD = {"say": [READY]}
DRAINS = {"say": [READY], "drains": True}


@pytest.fixture
def launch(processes: Processes, tmp_path: Path):
    """Start the launcher with stand-ins; two ranks where two configs are given."""

    def start(*shards: dict[str, Any], router: dict[str, Any] = DRAINS, **more: Any) -> Running:
        plan = json.dumps({"shards": shards, "router": router} | more.pop("plan", {}))
        flags = ["--echo", "--model-id", str(tmp_path), "--port", "0", "--hostname", "127.0.0.1"]
        flags += ["--num-shard", str(len(shards)), *more.pop("flags", ())]
        script = str(Path(__file__).with_name("stand_in_launcher.py"))
        return processes.start(script, plan, *flags, **more)

    def child(running: Running, word: str = "pid") -> int:
        found = re.search(rf"{word} (\d+)\.", running.line(f"{word} "))
        assert found
        return processes.note(int(found[1]))

    start.child = child
    return start


def test_connected_follows_every_rank_and_the_router(launch) -> None:
    running = launch(GOOD, GOOD)
    url = re.search(r"http://127\.0\.0\.1:\d+", running.line("Connected"))
    assert url
    assert f"curl {url[0]}/generate" in running.lines[-1]
    ready = [line for line in running.lines if line.startswith("Shard ready in ")]
    assert {line.rpartition(" ")[2] for line in ready} == {"rank=0", "rank=1"}


def test_sigterm_drains_the_router_then_ends_the_shards_with_exit_0(launch, processes) -> None:
    running = launch(GOOD)
    shard, router = launch.child(running), launch.child(running)
    running.line("Connected")
    running.signal(SIGTERM)
    running.line("router: router was told to end")
    assert running.end() == 0
    assert processes.gone(router)
    assert processes.gone(shard)


def test_ctrl_c_drains_as_well(launch) -> None:
    running = launch(GOOD)
    running.line("Connected")
    running.signal(SIGINT)
    assert running.end() == 0


def test_requests_that_outlive_the_grace_are_cut_and_the_exit_is_still_0(launch) -> None:
    running = launch(GOOD, router=GOOD | {"stubborn": True}, flags=["-g", "0"])
    running.line("Connected")
    running.signal(SIGTERM)
    assert running.end() == 0
    assert any("are cut" in line for line in running.lines)


def test_a_second_signal_aborts_with_exit_1_and_leaves_nothing(launch, processes) -> None:
    running = launch(GOOD | {"stubborn": True}, router=GOOD | {"stubborn": True})
    children = launch.child(running), launch.child(running)
    running.line("Connected")
    running.signal(SIGTERM)
    running.line("router was told to end")
    running.signal(SIGTERM)
    assert running.end() == 1
    assert "Error: Aborted" in running.lines[-1]
    assert all(map(processes.gone, children))


def test_sigterm_while_a_shard_loads_exits_0_even_if_the_shard_does_not_listen(
    launch, processes
) -> None:
    running = launch({"stubborn": True})
    shard = launch.child(running)
    running.signal(SIGTERM)
    assert running.end() == 0
    assert processes.gone(shard)


def test_a_fault_of_a_shard_is_one_line_and_its_code_is_the_exit_status(launch) -> None:
    fault = {"event": "fault", "code": 4, "text": "model.safetensors is cut short"}
    running = launch({"say": [fault], "exit": 4})
    assert running.end() == 4
    assert running.lines[-1] == "Error: ModelRefused: model.safetensors is cut short"
    assert not any("Traceback" in line for line in running.lines)


def test_a_shard_that_dies_at_start_is_told_with_rank_status_and_last_words(launch) -> None:
    running = launch(GOOD | {"stubborn": True}, {"stderr": ["no memory left"], "exit": 3})
    assert running.end() == 8
    text = "\n".join(running.lines)
    assert "Error: ShardCannotStart: rank 1 ended with status 3 before it was ready" in text
    assert "rank 1: no memory left" in text
    assert running.lines[-1] == "  no memory left"


def test_a_router_that_dies_at_start_is_told_as_the_webserver(launch) -> None:
    running = launch(GOOD, router={"exit": 1})
    assert running.end() == 8
    assert any(line.startswith("Error: WebserverCannotStart: router") for line in running.lines)


def test_a_shard_killed_at_run_time_ends_everything_with_exit_1(launch, processes) -> None:
    running = launch(GOOD | {"stderr": ["last words"]})
    shard, router = launch.child(running), launch.child(running)
    running.line("Connected")
    os.kill(shard, SIGKILL)
    assert running.end() == 1
    error = next(line for line in running.lines if line.startswith("Error:"))
    assert error.startswith("Error: ShardFailed: rank 0 ended by SIGKILL")
    assert running.lines[-1] == "  last words"
    assert processes.gone(router)


def test_a_router_that_notices_a_dead_shard_first_does_not_take_the_blame(launch) -> None:
    lost = {"event": "fault", "code": 1, "text": "the shards were lost"}
    running = launch(GOOD, router={"say": [READY], "witness": lost})
    shard, router = launch.child(running), launch.child(running)
    running.line("Connected")
    os.kill(shard, SIGKILL)
    os.kill(router, SIGUSR1)
    assert running.end() == 1
    error = next(line for line in running.lines if line.startswith("Error:"))
    assert error.startswith("Error: ShardFailed: rank 0 ended by SIGKILL")


def test_a_dead_shard_is_noticed_although_its_own_child_holds_the_pipes(launch) -> None:
    running = launch(GOOD | {"heir": True})
    shard = launch.child(running)
    launch.child(running, "heir")
    running.line("Connected")
    os.kill(shard, SIGKILL)
    assert running.end() == 1


def test_a_router_killed_at_run_time_ends_everything_with_exit_1(launch, processes) -> None:
    running = launch(GOOD | {"stubborn": True})
    shard, router = launch.child(running), launch.child(running)
    running.line("Connected")
    os.kill(router, SIGKILL)
    assert running.end() == 1
    assert any(line.startswith("Error: WebserverFailed: router") for line in running.lines)
    assert processes.gone(shard)


def test_killing_the_launcher_leaves_no_child_however_stubborn(launch, processes) -> None:
    running = launch(GOOD | {"stubborn": True}, router=GOOD | {"stubborn": True})
    children = launch.child(running), launch.child(running)
    running.line("Connected")
    running.signal(SIGKILL)
    assert all(map(processes.gone, children))


def test_a_port_in_use_is_told_before_any_child_starts(launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        running = launch(GOOD, flags=["--port", str(port)])
        assert running.end() == 5
    (line,) = running.lines
    assert line.startswith(f"Error: PortInUse: port {port} is in use by process {os.getpid()} (")
    assert re.search(r"port \d+ is free", line)


def test_two_servers_that_both_load_cannot_share_a_port(launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    first = launch({"stubborn": True}, flags=["--port", port])
    first.line("pid ")
    assert launch(GOOD, flags=["--port", port]).end() == 5


def test_nobody_can_connect_before_the_server_is_ready(launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    launch({"stubborn": True}, flags=["--port", str(port)]).line("pid ")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_with_json_output_every_line_is_an_object(launch) -> None:
    noisy = GOOD | {"stderr": ["plain words", '{"level": "INFO"}'], "stdout": "a stray print\n"}
    running = launch(noisy, flags=["--json-output"])
    running.line("Connected")
    running.signal(SIGTERM)
    assert running.end() == 0
    lines = [json.loads(line) for line in running.lines]
    assert {"ready", "connected", "progress"} <= {line.get("event") for line in lines}
    assert {"plain words", "a stray print"} <= {line.get("message") for line in lines}
    assert {"level": "INFO"} in lines


def test_an_endless_line_of_a_child_is_cut_and_kept_in_bounds(launch) -> None:
    running = launch(GOOD | {"flood": 1_000_000})
    running.line("Connected")
    assert max(map(len, running.lines)) < 200_000


def test_the_operator_is_told_what_is_waited_for(launch) -> None:
    running = launch({"stubborn": True}, plan={"remind": 0.01})
    running.line("Waiting for shard to be ready...")


def test_the_run_folder_is_private_and_gone_afterwards(launch, tmp_path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    running = launch(GOOD, env={"TMPDIR": str(temporary)})
    running.line("Connected")
    (folder,) = temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    running.signal(SIGTERM)
    assert running.end() == 0
    assert not list(temporary.iterdir())


def test_an_unknown_model_without_network_is_exit_3_and_names_it(processes, tmp_path) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    running = processes.start(
        str(ROOT / "launcher.py"), "--model-id", "nobody/nothing", "-p", "0", env=offline
    )
    assert running.end() == 3
    assert running.lines[-1].startswith("Error: DownloadError: `nobody/nothing` is not cached")


def test_the_launcher_loads_no_heavy_library(processes) -> None:
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


def options(*arguments: str, **environment: str) -> launcher.Options:
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
        (["--laps-ratio", "1"], "`laps_ratio` must be > 1, or the thresholds do not rise"),
        (["--port", "65536"], "`port`(65536) must be in 0..65535"),
        (["--speculate", "many"], "`speculate`: `many` is no number, nor auto"),
        (["--speculate", "-1"], "`speculate` cannot be < 0"),
        (["--speculate", "65"], "`speculate`(65) cannot be > 64"),
        (["--quantize", "awq"], "`--quantize` is not supported yet"),
        (["--sharded", "true"], "`sharded` is true but only found 0 CUDA devices"),
    ],
)
def test_argument_errors_have_tgis_words_and_status_2(processes, arguments, text) -> None:
    bare = {"CUDA_VISIBLE_DEVICES": ""}
    running = processes.start(str(ROOT / "launcher.py"), *arguments, env=bare)
    assert running.end() == 2
    assert running.lines == [f"Error: ArgumentValidation: {text}"]


def test_shards_are_counted_from_the_visible_devices() -> None:
    model = options().model
    assert model.world({}) == 1
    assert model.world({"CUDA_VISIBLE_DEVICES": "0,1"}) == 2
    assert model.world({"NVIDIA_VISIBLE_DEVICES": "0,1,2"}) == 3
    assert options("--sharded", "false").model.world({"CUDA_VISIBLE_DEVICES": "0,1"}) == 1
    assert options("--num-shard", "4").model.world({"CUDA_VISIBLE_DEVICES": "0,1"}) == 4


def test_children_receive_what_was_chosen(tmp_path) -> None:
    chosen = options("--dtype", "bfloat16", "--max-batch-size", "7", "--laps-levels", "5")
    models = launcher.Models(tmp_path, tmp_path / "draft", "target", "draft")
    shard = launcher.shard_command(chosen, models, ("a", "b"), 1, tmp_path)
    assert shard.argv[0] == sys.executable
    assert (shard.config["rank"], shard.config["world"], shard.config["socket"]) == (1, 2, "b")
    assert (shard.config["dtype"], shard.config["max_rows"]) == ("bfloat16", 7)
    assert shard.config["speculate"] == DRAFTED
    router = launcher.router_command(chosen, models, ("a", "b"), 9)
    assert json.loads(json.dumps(router.config))["scheduler"]["laps_levels"] == 5
    assert (router.config["listen_fd"], router.descriptors) == (9, (9,))


@pytest.mark.parametrize(
    ("flags", "drafted"),
    [([], 0), (["--speculate", "3"], 3), (["--speculate", "auto"], 8), (["--speculate", "0"], 0)],
)
def test_without_a_draft_model_nothing_is_drafted_unless_asked(tmp_path, flags, drafted) -> None:
    models = launcher.Models(tmp_path, None, "target", None)
    command = launcher.shard_command(options(*flags), models, ("a",), 0, tmp_path)
    assert (command.config["speculate"], command.config["draft_path"]) == (drafted, None)
