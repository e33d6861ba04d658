"""The router child: its configuration on stdin, its reports on stdout, its logs on stderr.

The first line of stdin is the RouterConfig as JSON; the end of stdin means that the launcher is
gone or wants this process to end. Each line of stdout is one JSON object: `ready`, or a `fault`
whose code is the exit status. SIGTERM drains: live requests finish, then the exit status is 0.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

from aiohttp.typedefs import Middleware

from router.app import (
    build_access_policy,
    build_router,
    build_routes,
    build_server_info,
    load_model,
    scheduler_state_file,
)
from router.child import DEAD_SHARD, FAILED, RouterStartupError, emit, parse_config
from router.config import RouterConfig, ServerConfig
from router.dispatch.dispatcher import Dispatcher
from router.dispatch.learned_state import save_periodically
from router.http import request_log
from router.http import tracing as traces
from router.http.server import run_server
from router.offload import tune_event_loop
from router.shards.group import ShardGroup, ShardGroupFailed
from router.text.worker_pool import WorkerFiles, WorkerPool


class LauncherExited(Exception):
    """stdin has ended."""


def main() -> int:
    """Run until drained, abandoned or at fault; the exit status."""
    line = sys.stdin.buffer.readline()
    if not line:
        return 0
    try:
        config = parse_config(line)
        request_log.configure(config.server.log_level)
        asyncio.run(serve(config))
    except RouterStartupError as fault:
        emit(event="fault", code=fault.code, text=str(fault))
        return fault.code
    return 0


async def serve(config: RouterConfig) -> None:
    """Greet the shards, then serve until drained or abandoned. Raises Fault."""
    workers = ThreadPoolExecutor(config.limits.validation_workers)
    asyncio.get_running_loop().set_default_executor(workers)
    stop = _on_sigterm()
    try:
        async with (
            tracing(config.server) as around,
            ShardGroup.connect(config.sockets, step_timeout=config.server.step_timeout) as shards,
        ):
            await serve_with_shards(config, shards, stop, around)
    except ShardGroupFailed as lost:
        raise RouterStartupError(DEAD_SHARD, str(lost)) from lost


@asynccontextmanager
async def tracing(config: ServerConfig) -> AsyncIterator[list[Middleware]]:
    """What traces requests, if they are to be traced; the last spans leave at the exit."""
    if config.otlp_endpoint is None:
        yield []
        return
    provider = traces.make_tracer_provider(config.otlp_endpoint, config.otlp_service_name)
    try:
        yield [traces.tracing_middleware(provider)]
    finally:
        await asyncio.to_thread(provider.shutdown)


async def serve_with_shards(
    config: RouterConfig, shards: ShardGroup, stop: asyncio.Event, middlewares: Sequence[Middleware]
) -> None:
    """The same, with greeted `shards`, until `stop`. Raises Fault, also when they are lost."""
    store, model = scheduler_state_file(config, os.environ), load_model(config)
    files = WorkerFiles(
        config.model_path, shards.ready_messages[0].vocab_size, config.server.tokenizer_config_path
    )
    workers = WorkerPool(files, config.limits.validation_workers)
    dispatcher, front = build_router(config, shards, model, workers, store)
    about, pages = build_server_info(config, shards.ready_messages), not config.server.no_ui
    more = build_routes(front, about, model, files.vocab_size, workers, docs_ui=pages)
    listener = socket.socket(fileno=config.listen_fd)
    try:
        async with asyncio.TaskGroup() as group:
            services = (
                dispatcher.run(),
                wait_for_launcher_exit(),
                save_periodically(store, dispatcher.learned_state),
            )
            others = [group.create_task(service) for service in services]
            await workers.prestart()
            tune_event_loop()
            await run_server(
                front,
                listener,
                build_access_policy(config.server),
                more,
                middlewares,
                on_ready=lambda: emit(event="ready"),
                wait_drained=lambda: _drain(stop, dispatcher),
            )
            for task in others:
                task.cancel()
    except* LauncherExited:
        pass  # whatever was live has been told that it is lost
    except* ShardGroupFailed as lost:
        raise RouterStartupError(FAILED, f"the shards were lost: {lost.exceptions[0]}") from None
    finally:
        await workers.close()


async def wait_for_launcher_exit() -> None:
    """Wait for the end of stdin. Raises LauncherExited."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while await reader.read(4096):
        pass
    raise LauncherExited


def _on_sigterm() -> asyncio.Event:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    return stop


async def _drain(stop: asyncio.Event, dispatcher: Dispatcher) -> None:
    await stop.wait()
    await dispatcher.drain()


if __name__ == "__main__":
    sys.exit(main())
