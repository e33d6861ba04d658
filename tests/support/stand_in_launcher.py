"""The launcher with stand-ins for its children: argv[1] is their plan, the rest its flags."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import launcher
from shard.launch import restart_policy, serving
from shard.launch.child import ChildCommand
from shard.launch.model_source import ModelFolders

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in.py")))
plan = json.loads(sys.argv.pop(1))


def shard(
    options: launcher.LauncherOptions,
    models: ModelFolders,
    paths: Sequence[str],
    rank: int,
    folder: Path,
) -> ChildCommand:
    config = plan["shards"][rank] | {"name": f"rank {rank}"}
    return ChildCommand(f"rank {rank}", STAND_IN, config)


def router(
    options: launcher.LauncherOptions,
    models: ModelFolders,
    paths: tuple[str, ...],
    listen_fd: int,
) -> ChildCommand:
    return ChildCommand("router", STAND_IN, plan["router"] | {"name": "router"}, (listen_fd,))


launcher.shard_command = shard
launcher.router_command = router
serving.REMINDER_SECONDS = plan.get("remind", serving.REMINDER_SECONDS)
restart_policy.FIRST_DELAY_SECONDS = 0.01
sys.exit(launcher.main())
