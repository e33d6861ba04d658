#!/usr/bin/env python3
"""The command line: parse it, bind the port, find the models, start the shards and the router.

The flags are the fields of the config classes. The port is bound before any model is read, so that
a conflict is reported at once. This process imports neither torch nor an HTTP library: an error in
the command line or in a model's folder is reported within a second.
"""

from __future__ import annotations

import sys

from shard.launch import signals

if sys.argv[0].rpartition("/")[2] in ("launcher.py", "text-generation-launcher"):
    signals.hold()  # before the imports, which take a moment; not in tests, which only import this

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import get_type_hints

from router import log_levels
from router.cli import config_file, flags, port
from router.cli.console import ConsoleLog
from router.cli.environment_report import examine, print_report
from router.cli.launcher_flags import DeveloperFlags, LauncherFlags
from router.cli.live_console import open_log
from router.cli.startup_lines import announce, exposure_warning
from router.cli.tgi_flags import IgnoredTgiFlags, UnsupportedTgiFlags
from router.config import Limits, RouterConfig, ServerConfig
from router.scheduler.config import SchedulerConfig
from shard.child_command import python_command
from shard.config import DEFAULT_PREFILL_TOKENS, ModelConfig, ShardConfig
from shard.errors import StartupError
from shard.launch.child import ChildCommand
from shard.launch.lifetime import run
from shard.launch.measurement_folder import measurement_folder
from shard.launch.memory_estimate import estimate_memory
from shard.launch.model_source import ModelFolders, resolve_models
from shard.launch.rank_group import RankGroup
from shard.launch.run_folder import run_folder
from shard.launch.serving import serve
from shard.launch.supervisor import Supervisor
from shard.loading import checkpoint
from shard.wire import sockets

RENDEZVOUS = "rendezvous"
"""File in the run folder through which the ranks of one start find each other."""
DEFAULT_BATCH_SIZE = 64
"""Default of `max_batch_size`."""


@dataclass(frozen=True, slots=True)
class LauncherOptions:
    """The parsed command line, with a field for each group of flags in `--help`."""

    model: ModelConfig
    limits: Limits
    scheduler: SchedulerConfig
    server: ServerConfig
    launcher: LauncherFlags
    ignored: IgnoredTgiFlags
    unsupported: UnsupportedTgiFlags
    developer: DeveloperFlags

    @property
    def serving_configs(self) -> tuple[ModelConfig, Limits, SchedulerConfig, ServerConfig]:
        """The groups that change what is served."""
        return self.model, self.limits, self.scheduler, self.server


def main() -> int:
    """Run the launcher and return the exit status.

    0 is a clean end or a signal, 1 a failure while serving, 2 to 8 a failure at startup.
    """
    signals.hold()
    log = ConsoleLog(as_json=False)
    try:
        if sys.argv[1:2] == ["env"]:
            print_report(sys.argv[2:], get_type_hints(LauncherOptions), os.environ)
            return 0
        options = parse(sys.argv[1:], os.environ)
        log = open_log(as_json=options.server.json_output or os.environ.get("LOG_FORMAT") == "json")
        if options.launcher.print_config:
            print("\n".join(config_file.dump(*options.serving_configs)))
            return 0
        log_startup(options, log)
        with bind(options.server) as http_socket, run_folder() as folder:
            work = check if options.launcher.check else launch
            asyncio.run(run(partial(work, options, http_socket, folder, log), log))
    except StartupError as error:
        log.error(error.line)
        return error.code
    finally:
        log.close()
    return 0


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> LauncherOptions:
    """Parse and check the command line. Raises StartupError(2)."""
    groups = get_type_hints(LauncherOptions)
    about = (
        "Serve a language model over HTTP, with a draft model and LAPS-SD scheduling. With `env` as"
        " the first argument: print versions and devices."
    )
    try:
        parser = flags.FlagParser(groups, "text-generation-launcher", about)
        options = LauncherOptions(**parser.parse_configs(arguments, environment))
        for config in (*options.serving_configs, options.unsupported):
            config.check()
        options.model.shard_count(environment)
        options.server.api_keys()
        return options
    except ValueError as error:
        raise StartupError(2, str(error)) from None


def log_startup(options: LauncherOptions, log: ConsoleLog) -> None:
    """Log what `env` prints if `--env` asks for it, and warnings about the flags."""
    if options.launcher.env:
        for line in examine(get_type_hints(LauncherOptions), os.environ).lines():
            log(line, event="environment")
    for warning in filter(None, (options.ignored.warning(), exposure_warning(options.server))):
        log.warning(warning)


def bind(server: ServerConfig) -> socket.socket:
    """Bind the HTTP socket.

    Raises StartupError: 5 for a port in use, 2 for an address that this host does not have.
    """
    try:
        return port.bind(server.hostname, server.port)
    except port.PortInUse as conflict:
        raise StartupError(5, str(conflict)) from None
    except OSError as error:
        where = f"`hostname`({server.hostname}) and `port`({server.port})"
        raise StartupError(2, f"{where} cannot be bound: {error.strerror}") from None


async def launch(
    options: LauncherOptions,
    http_socket: socket.socket,
    folder: Path,
    log: ConsoleLog,
    children: Supervisor,
) -> None:
    """Find and check the models, then serve until a signal arrives. Raises as `serve` does."""
    world = options.model.shard_count(os.environ)
    models = await resolve_models(options.model, children, folder)
    if not options.developer.echo:
        checkpoint.check(models.target, models.draft, world)
    paths = sockets.socket_paths(options.model.shard_uds_path, folder, world)
    shards = [shard_command(options, models, paths, rank, folder) for rank in range(world)]
    router = router_command(options, models, paths, http_socket.fileno())
    remove_rendezvous = partial((folder / RENDEZVOUS).unlink, missing_ok=True)
    group = RankGroup(shards, children, log, before_start=remove_rendezvous)
    on_ready = partial(announce, http_socket, log, with_pages=not options.server.no_ui)
    await serve(group, router, on_ready, options.server.graceful_termination_timeout, log, children)


async def check(
    options: LauncherOptions,
    http_socket: socket.socket,
    folder: Path,
    log: ConsoleLog,
    children: Supervisor,
) -> None:
    """Check everything that a start needs except the weights. Raises StartupError."""
    world = options.model.shard_count(os.environ)
    models = await resolve_models(options.model, children, folder, weights=False)
    checkpoint.check(models.target, models.draft, world, models.without_weights)
    log(f"Models: {' and '.join(filter(None, (models.target_id, models.draft_id)))}")
    paths = sockets.socket_paths(options.model.shard_uds_path, folder, world)
    shard = shard_command(options, models, paths, 0, folder)
    lacking = [str(path) for path in models.without_weights]
    preflight = shard.preflight("shard.preflight", without_weights=lacking)
    rank = await children.result_of(preflight, "checked")
    log(f"Engine: {rank['text']}")
    estimate = estimate_memory(rank["weight_bytes"], rank["kv_bytes_per_token"], world)
    estimate.check(options.limits.max_batch_total_tokens)
    log(f"Memory: {estimate}")
    router = router_command(options, models, paths, http_socket.fileno())
    preflight = router.preflight("router.preflight", max_length=rank["max_length"])
    log(f"Text: {(await children.result_of(preflight, 'checked'))['text']}")
    log(f"Port: {http_socket.getsockname()[1]} is free")
    log("Checked: the server can start", event="checked")


def shard_command(
    options: LauncherOptions, models: ModelFolders, paths: Sequence[str], rank: int, folder: Path
) -> ChildCommand:
    """The command that starts one rank."""
    model, limits = options.model, options.limits
    measurements = measurement_folder(model.measurement_cache, os.environ)
    config = ShardConfig(
        model_path=str(models.target),
        model_id=models.target_id,
        draft_path=str(models.draft) if models.draft else None,
        rank=rank,
        world=len(paths),
        socket=paths[rank],
        rendezvous=str(folder / RENDEZVOUS),
        speculate=model.max_draft_length(has_draft=models.draft is not None),
        drafter=model.drafter,
        dtype=model.dtype,
        max_rows=limits.max_batch_size or DEFAULT_BATCH_SIZE,
        max_total_tokens=limits.max_total_tokens,
        max_batch_total_tokens=limits.max_batch_total_tokens,
        max_swap_tokens=limits.max_swap_tokens,
        echo=options.developer.echo,
        echo_seconds=options.developer.echo_seconds,
        cuda_memory_fraction=model.cuda_memory_fraction,
        prefill_tokens=limits.max_batch_prefill_tokens or DEFAULT_PREFILL_TOKENS,
        log_level=log_levels.effective_level(options.server.log_level, log_levels.SHARD_TARGETS),
        measurement_cache=str(measurements) if measurements else None,
        adapters=bool(models.adapters) or model.lora_folder is not None,
        adapter_paths=tuple(map(str, models.adapters)),
        rope_scaling=model.rope_scaling,
        rope_factor=model.rope_factor,
    )
    return ChildCommand(f"rank {rank}", python_command("shard"), asdict(config))


def router_command(
    options: LauncherOptions, models: ModelFolders, paths: tuple[str, ...], listen_fd: int
) -> ChildCommand:
    """The command that starts the router."""
    config = RouterConfig(
        limits=options.limits,
        scheduler=options.scheduler,
        server=options.server,
        model_path=str(models.target),
        model_id=models.target_id,
        revision=options.model.revision,
        draft_model_id=models.draft_id,
        sockets=paths,
        listen_fd=listen_fd,
        step_log=options.developer.step_log,
        adapters=tuple(source.name for source in options.model.adapter_sources()),
        adapter_paths=tuple(map(str, models.adapters)),
        lora_folder=options.model.lora_folder,
        max_lora_bytes=options.model.max_lora_bytes,
    )
    return ChildCommand("router", python_command("router"), asdict(config), (listen_fd,))


if __name__ == "__main__":
    sys.exit(main())
