#!/usr/bin/env python3
"""The one command line: parse, bind, find, check, start the shards and the router, end them all.

The flags are the fields of the config classes. The port is bound before any model is read, so
that a clash shows at once. This process loads neither torch nor an HTTP library: what is wrong
with the command line or with a model's folder is said within a second.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import get_type_hints

from router import log_levels
from router.cli import config_file, flags, port
from router.cli.console import ConsoleLog
from router.cli.tgi_flags import IgnoredTgiFlags, UnsupportedTgiFlags
from router.cli.versions import describe
from router.config import Limits, RouterConfig, SchedulerConfig, ServerConfig
from shard.config import (
    DEFAULT_DRAFT_LENGTH,
    DEFAULT_PREFILL_TOKENS,
    ModelConfig,
    ShardConfig,
    option,
)
from shard.errors import StartupError
from shard.launch.memory_estimate import estimate_memory
from shard.launch.model_source import PYTHON_COMMAND, ModelFolders, resolve_models
from shard.launch.supervisor import Child, ChildCommand, StopRequested, Supervisor
from shard.loading import checkpoint
from shard.wire import sockets

ERROR_PREFIXES = {
    2: "ArgumentValidation: ",
    3: "DownloadError: ",
    4: "ModelRefused: ",
    5: "PortInUse: ",
    6: "NotEnoughMemory: ",
    7: "RunFolder: ",
}
"""What stands after `Error: `, by exit status; faults of 1 and 8 bring their own name."""
REMINDER_SECONDS = 10.0
"""Seconds between two lines that say what is waited for."""
DEFAULT_BATCH_SIZE = 64
"""Default of `max_batch_size`."""
CURL_EXAMPLE = (
    """curl {url}/generate -H 'Content-Type: application/json' -d '{{"inputs": "Once upon"}}'"""
)


@dataclass(frozen=True, slots=True)
class LauncherFlags:
    """What this program does with the rest."""

    config: str | None = option(None, "TOML file with a key for each flag", environment=None)
    print_config: bool = option(False, "print such a file, and end", environment=None)
    check: bool = option(False, "check all but the weights themselves, and end", environment=None)
    env: bool = option(False, "print versions and devices first", short="-e", environment=None)


@dataclass(frozen=True, slots=True)
class DeveloperFlags:
    """Flags for tests and router benchmarks; not in the help."""

    echo: bool = option(False, argparse.SUPPRESS, environment=None)
    echo_seconds: float = option(0.0, argparse.SUPPRESS, environment=None)
    step_log: str | None = option(None, argparse.SUPPRESS, environment=None)


@dataclass(frozen=True, slots=True)
class LauncherOptions:
    """The whole command line, a field for each group of flags."""

    model: ModelConfig
    limits: Limits
    scheduler: SchedulerConfig
    server: ServerConfig
    launch: LauncherFlags
    accepted: IgnoredTgiFlags
    refused: UnsupportedTgiFlags
    developer: DeveloperFlags

    @property
    def serving_configs(self) -> tuple[ModelConfig, Limits, SchedulerConfig, ServerConfig]:
        """The groups that change what is served."""
        return self.model, self.limits, self.scheduler, self.server


def main() -> int:
    """The exit status: 0 clean or signalled, 1 a failure at run time, 2 to 8 one at start."""
    log = ConsoleLog(as_json=False)
    try:
        chosen = parse(sys.argv[1:], os.environ)
        log = ConsoleLog(
            as_json=chosen.server.json_output or os.environ.get("LOG_FORMAT") == "json"
        )
        if chosen.launch.print_config:
            print("\n".join(config_file.dump(*chosen.serving_configs)))
            return 0
        log_startup(chosen, log)
        with bind(chosen.server) as bound, sockets.run_folder() as folder:
            work = check if chosen.launch.check else launch
            asyncio.run(run(partial(work, chosen, bound, folder, log), log))
    except StartupError as fault:
        log.error("Error: " + ERROR_PREFIXES.get(fault.code, "") + fault.text)
        return fault.code
    return 0


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> LauncherOptions:
    """Raises Fault(2)."""
    groups = get_type_hints(LauncherOptions)
    about = "Serve a language model over HTTP, with a draft model and LAPS-SD scheduling."
    try:
        parser = flags.FlagParser(groups, "text-generation-launcher", about)
        chosen = LauncherOptions(**parser.parse_configs(arguments, environment))
        for config in (*chosen.serving_configs, chosen.refused):
            config.check()
        chosen.model.shard_count(environment)
        return replace(chosen, server=chosen.server.with_api_key())
    except ValueError as error:
        raise StartupError(2, str(error)) from None


def log_startup(chosen: LauncherOptions, log: ConsoleLog) -> None:
    """What is said before anything is done."""
    for line in describe() if chosen.launch.env else ():
        log(line, event="environment")
    if warning := chosen.accepted.warning():
        log.warning(warning)


def bind(server: ServerConfig) -> socket.socket:
    """Raises Fault(5) for a clash, Fault(2) for an address that is not this machine's."""
    try:
        return port.bind(server.hostname, server.port)
    except port.PortInUse as clash:
        raise StartupError(5, str(clash)) from None
    except OSError as error:
        where = f"`hostname`({server.hostname}) and `port`({server.port})"
        raise StartupError(2, f"{where} cannot be bound: {error.strerror}") from None


async def run(work: Callable[[Supervisor], Awaitable[None]], log: ConsoleLog) -> None:
    """Do `work` with children; whatever happens, none is left over. Raises Fault."""
    fault = None
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        children = Supervisor(tasks, log)
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, children.on_signal)
        try:
            await work(children)
        except StopRequested:
            log("Stopped before the server was ready")
        except StartupError as error:  # kept, since the group would wrap it
            fault = error
        finally:
            await children.shutdown()
    if fault:
        raise fault


async def launch(
    chosen: LauncherOptions,
    http_socket: socket.socket,
    folder: Path,
    log: ConsoleLog,
    children: Supervisor,
) -> None:
    """Find and check the models, then serve until the operator asks for the end."""
    world = chosen.model.shard_count(os.environ)
    models = await resolve_models(chosen.model, children, folder)
    if not chosen.developer.echo:
        checkpoint.check(models.target, models.draft, world)
    paths = sockets.socket_paths(chosen.model.shard_uds_path, folder, world)
    shards = [shard_command(chosen, models, paths, rank, folder) for rank in range(world)]
    router = router_command(chosen, models, paths, http_socket.fileno())
    await serve(
        shards, router, http_socket, chosen.server.graceful_termination_timeout, log, children
    )


async def check(
    chosen: LauncherOptions,
    http_socket: socket.socket,
    folder: Path,
    log: ConsoleLog,
    children: Supervisor,
) -> None:
    """Everything that can go wrong at start, as far as it shows without a weight. Raises Fault."""
    world = chosen.model.shard_count(os.environ)
    models = await resolve_models(chosen.model, children, folder, weights=False)
    checkpoint.check(models.target, models.draft, world, weights=False)
    log(f"Models: {' and '.join(filter(None, (models.target_id, models.draft_id)))}")
    need = estimate_memory(models.folders, chosen.model.dtype, world)
    need.check(chosen.limits.max_batch_total_tokens)
    log(f"Memory: {need}")
    sockets.socket_paths(chosen.model.shard_uds_path, folder, world)
    router = router_command(chosen, models, (), http_socket.fileno())
    child = children.start(replace(router, argv=(*PYTHON_COMMAND, "router.preflight")))
    checked = await children.wait_for("checked", child)
    child.exit_expected = True
    log(f"Text: {checked.data['text']}")
    log(f"Port: {http_socket.getsockname()[1]} is free")
    log("Checked: the server can start", event="checked")


async def serve(
    shards: Sequence[ChildCommand],
    router: ChildCommand,
    http_socket: socket.socket,
    grace_seconds: float,
    log: ConsoleLog,
    children: Supervisor,
) -> None:
    """Start, supervise and drain. Raises StopRequested before it served, and Fault."""
    ranks = [children.start(shard) for shard in shards]
    await wait_until_ready(ranks, children, log)
    front = children.start(router)
    await children.wait_for("ready", front)
    port.allow_address_reuse(http_socket)
    url = port.url(http_socket)
    log(
        f"Connected: serving at {url}; try: {CURL_EXAMPLE.format(url=url)}",
        event="connected",
        url=url,
    )
    try:
        await children.wait_for("ended", front)
    except StopRequested:
        log("Draining: live requests may finish", event="draining", seconds=grace_seconds)
    await drain(front, grace_seconds, log, children)


async def wait_until_ready(ranks: Sequence[Child], children: Supervisor, log: ConsoleLog) -> None:
    """Wait for every rank, and say so from time to time."""
    begun = monotonic()
    reminder = children.tasks.create_task(_remind(log))
    try:
        async for report in children.wait_each("ready", ranks):
            seconds = monotonic() - begun
            log(f"Shard ready in {seconds:.1f}s", event="ready", rank=ranks.index(report.child))
    finally:
        reminder.cancel()


async def _remind(log: ConsoleLog) -> None:
    while True:
        await asyncio.sleep(REMINDER_SECONDS)
        log("Waiting for shard to be ready...", event="waiting")


async def drain(router: Child, grace_seconds: float, log: ConsoleLog, children: Supervisor) -> None:
    """Let live requests finish. Raises Fault(1) at a second signal."""
    router.terminate()
    try:
        async with asyncio.timeout(grace_seconds):
            await children.wait_for("ended", router)
    except TimeoutError:
        log(f"Requests still live after {grace_seconds} s are cut", event="cut")
    except StopRequested:
        raise StartupError(1, "Aborted: a second signal came while requests were live") from None


def shard_command(
    chosen: LauncherOptions, models: ModelFolders, paths: Sequence[str], rank: int, folder: Path
) -> ChildCommand:
    """The child of one rank."""
    model, limits = chosen.model, chosen.limits
    config = ShardConfig(
        model_path=str(models.target),
        model_id=models.target_id,
        draft_path=str(models.draft) if models.draft else None,
        rank=rank,
        world=len(paths),
        socket=paths[rank],
        rendezvous=str(folder / "rendezvous"),
        speculate=model.max_draft_length(DEFAULT_DRAFT_LENGTH if models.draft else 0),
        dtype=model.dtype,
        max_rows=limits.max_batch_size or DEFAULT_BATCH_SIZE,
        max_total_tokens=limits.max_total_tokens,
        max_batch_total_tokens=limits.max_batch_total_tokens,
        max_swap_tokens=limits.max_swap_tokens,
        echo=chosen.developer.echo,
        echo_seconds=chosen.developer.echo_seconds,
        cuda_memory_fraction=model.cuda_memory_fraction,
        prefill_tokens=limits.max_batch_prefill_tokens or DEFAULT_PREFILL_TOKENS,
        log_level=log_levels.effective_level(chosen.server.log_level, log_levels.SHARD_TARGETS),
    )
    return ChildCommand(f"rank {rank}", (*PYTHON_COMMAND, "shard"), asdict(config))


def router_command(
    chosen: LauncherOptions, models: ModelFolders, paths: tuple[str, ...], listen_fd: int
) -> ChildCommand:
    """The child that speaks HTTP."""
    config = RouterConfig(
        limits=chosen.limits,
        scheduler=chosen.scheduler,
        server=chosen.server,
        model_path=str(models.target),
        model_id=models.target_id,
        revision=chosen.model.revision,
        draft_model_id=models.draft_id,
        sockets=paths,
        listen_fd=listen_fd,
        step_log=chosen.developer.step_log,
    )
    return ChildCommand(
        "router", (*PYTHON_COMMAND, "router"), asdict(config), descriptors=(listen_fd,)
    )


if __name__ == "__main__":
    sys.exit(main())
