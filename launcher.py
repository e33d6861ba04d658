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
from router.cli.console import Log
from router.cli.tgi_flags import Accepted, Refused
from router.cli.versions import describe
from router.config import Limits, RouterConfig, SchedulerConfig, ServerConfig
from shard.config import DRAFTED, PREFILL_TOKENS, ModelConfig, ShardConfig, option
from shard.errors import Fault
from shard.launch.memory_estimate import estimate
from shard.launch.model_source import PYTHON, Models, find
from shard.launch.supervisor import Child, Children, Command, Stop
from shard.loading import checkpoint
from shard.wire import sockets

NAMES = {
    2: "ArgumentValidation: ",
    3: "DownloadError: ",
    4: "ModelRefused: ",
    5: "PortInUse: ",
    6: "NotEnoughMemory: ",
    7: "RunFolder: ",
}
"""What stands after `Error: `, by exit status; faults of 1 and 8 bring their own name."""
REMIND = 10.0
"""Seconds between two lines that say what is waited for."""
ROWS = 64
"""Default of `max_batch_size`."""
CURL = """curl {url}/generate -H 'Content-Type: application/json' -d '{{"inputs": "Once upon"}}'"""


@dataclass(frozen=True, slots=True)
class Launch:
    """What this program does with the rest."""

    config: str | None = option(None, "TOML file with a key for each flag", environment=None)
    print_config: bool = option(False, "print such a file, and end", environment=None)
    check: bool = option(False, "check all but the weights themselves, and end", environment=None)
    env: bool = option(False, "print versions and devices first", short="-e", environment=None)


@dataclass(frozen=True, slots=True)
class Developer:
    """Flags for tests and router benchmarks; not in the help."""

    echo: bool = option(False, argparse.SUPPRESS, environment=None)
    echo_seconds: float = option(0.0, argparse.SUPPRESS, environment=None)
    step_log: str | None = option(None, argparse.SUPPRESS, environment=None)


@dataclass(frozen=True, slots=True)
class Options:
    """The whole command line, a field for each group of flags."""

    model: ModelConfig
    limits: Limits
    scheduler: SchedulerConfig
    server: ServerConfig
    launch: Launch
    accepted: Accepted
    refused: Refused
    developer: Developer

    @property
    def effective(self) -> tuple[ModelConfig, Limits, SchedulerConfig, ServerConfig]:
        """The groups that change what is served."""
        return self.model, self.limits, self.scheduler, self.server


def main() -> int:
    """The exit status: 0 clean or signalled, 1 a failure at run time, 2 to 8 one at start."""
    log = Log(as_json=False)
    try:
        chosen = parse(sys.argv[1:], os.environ)
        log = Log(as_json=chosen.server.json_output or os.environ.get("LOG_FORMAT") == "json")
        if chosen.launch.print_config:
            print("\n".join(config_file.dump(*chosen.effective)))
            return 0
        introduce(chosen, log)
        with bind(chosen.server) as bound, sockets.run_folder() as folder:
            work = check if chosen.launch.check else launch
            asyncio.run(run(partial(work, chosen, bound, folder, log), log))
    except Fault as fault:
        log.error("Error: " + NAMES.get(fault.code, "") + fault.text)
        return fault.code
    return 0


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Raises Fault(2)."""
    groups = get_type_hints(Options)
    about = "Serve a language model over HTTP, with a draft model and LAPS-SD scheduling."
    try:
        parser = flags.Parser(groups, "text-generation-launcher", about)
        chosen = Options(**parser.read(arguments, environment))
        for config in (*chosen.effective, chosen.refused):
            config.check()
        chosen.model.world(environment)
        return replace(chosen, server=chosen.server.with_key())
    except ValueError as error:
        raise Fault(2, str(error)) from None


def introduce(chosen: Options, log: Log) -> None:
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
        raise Fault(5, str(clash)) from None
    except OSError as error:
        where = f"`hostname`({server.hostname}) and `port`({server.port})"
        raise Fault(2, f"{where} cannot be bound: {error.strerror}") from None


async def run(work: Callable[[Children], Awaitable[None]], log: Log) -> None:
    """Do `work` with children; whatever happens, none is left over. Raises Fault."""
    fault = None
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        children = Children(tasks, log)
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, children.signalled)
        try:
            await work(children)
        except Stop:
            log("Stopped before the server was ready")
        except Fault as error:  # kept, since the group would wrap it
            fault = error
        finally:
            await children.end()
    if fault:
        raise fault


async def launch(
    chosen: Options, bound: socket.socket, folder: Path, log: Log, children: Children
) -> None:
    """Find and check the models, then serve until the operator asks for the end."""
    world = chosen.model.world(os.environ)
    models = await find(chosen.model, children, folder)
    if not chosen.developer.echo:
        checkpoint.check(models.target, models.draft, world)
    paths = sockets.paths(chosen.model.shard_uds_path, folder, world)
    shards = [shard_command(chosen, models, paths, rank, folder) for rank in range(world)]
    router = router_command(chosen, models, paths, bound.fileno())
    await serve(shards, router, bound, chosen.server.graceful_termination_timeout, log, children)


async def check(
    chosen: Options, bound: socket.socket, folder: Path, log: Log, children: Children
) -> None:
    """Everything that can go wrong at start, as far as it shows without a weight. Raises Fault."""
    world = chosen.model.world(os.environ)
    models = await find(chosen.model, children, folder, weights=False)
    checkpoint.check(models.target, models.draft, world, weights=False)
    log(f"Models: {' and '.join(filter(None, (models.target_id, models.draft_id)))}")
    need = estimate(models.folders, chosen.model.dtype, world)
    need.check(chosen.limits.max_batch_total_tokens)
    log(f"Memory: {need}")
    sockets.paths(chosen.model.shard_uds_path, folder, world)
    router = router_command(chosen, models, (), bound.fileno())
    child = children.start(replace(router, argv=(*PYTHON, "router.preflight")))
    checked = await children.until("checked", child)
    child.leaving = True
    log(f"Text: {checked.facts['text']}")
    log(f"Port: {bound.getsockname()[1]} is free")
    log("Checked: the server can start", event="checked")


async def serve(
    shards: Sequence[Command],
    router: Command,
    bound: socket.socket,
    grace: float,
    log: Log,
    children: Children,
) -> None:
    """Start, supervise and drain. Raises Stop before it served, and Fault."""
    ranks = [children.start(shard) for shard in shards]
    await started(ranks, children, log)
    front = children.start(router)
    await children.until("ready", front)
    port.release(bound)
    url = port.url(bound)
    log(f"Connected: serving at {url}; try: {CURL.format(url=url)}", event="connected", url=url)
    try:
        await children.until("ended", front)
    except Stop:
        log("Draining: live requests may finish", event="draining", seconds=grace)
    await drain(front, grace, log, children)


async def started(ranks: Sequence[Child], children: Children, log: Log) -> None:
    """Wait for every rank, and say so from time to time."""
    begun = monotonic()
    reminder = children.tasks.create_task(_remind(log))
    try:
        async for report in children.each("ready", ranks):
            seconds = monotonic() - begun
            log(f"Shard ready in {seconds:.1f}s", event="ready", rank=ranks.index(report.child))
    finally:
        reminder.cancel()


async def _remind(log: Log) -> None:
    while True:
        await asyncio.sleep(REMIND)
        log("Waiting for shard to be ready...", event="waiting")


async def drain(router: Child, grace: float, log: Log, children: Children) -> None:
    """Let live requests finish. Raises Fault(1) at a second signal."""
    router.terminate()
    try:
        async with asyncio.timeout(grace):
            await children.until("ended", router)
    except TimeoutError:
        log(f"Requests still live after {grace} s are cut", event="cut")
    except Stop:
        raise Fault(1, "Aborted: a second signal came while requests were live") from None


def shard_command(
    chosen: Options, models: Models, paths: Sequence[str], rank: int, folder: Path
) -> Command:
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
        speculate=model.longest_draft(DRAFTED if models.draft else 0),
        dtype=model.dtype,
        max_rows=limits.max_batch_size or ROWS,
        max_total_tokens=limits.max_total_tokens,
        max_batch_total_tokens=limits.max_batch_total_tokens,
        max_swap_tokens=limits.max_swap_tokens,
        echo=chosen.developer.echo,
        echo_seconds=chosen.developer.echo_seconds,
        cuda_memory_fraction=model.cuda_memory_fraction,
        prefill_tokens=limits.max_batch_prefill_tokens or PREFILL_TOKENS,
        log_level=log_levels.level(chosen.server.log_level, log_levels.SHARD),
    )
    return Command(f"rank {rank}", (*PYTHON, "shard"), asdict(config))


def router_command(
    chosen: Options, models: Models, paths: tuple[str, ...], descriptor: int
) -> Command:
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
        listen_fd=descriptor,
        step_log=chosen.developer.step_log,
    )
    return Command("router", (*PYTHON, "router"), asdict(config), descriptors=(descriptor,))


if __name__ == "__main__":
    sys.exit(main())
