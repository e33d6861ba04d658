"""The router process: its configuration on stdin, its events on stdout, its logs on stderr.

The first line of stdin is the RouterConfig as JSON. Each later line is an object whose `generation`
is the number of a start of the shards that is complete. The end of stdin means that the launcher
has exited or wants this process to end. Each line of stdout is one JSON object: `ready`,
`shards_failed` with the `generation` that has failed, or a `fault` whose code is the exit status.
SIGTERM drains: live requests finish, then the exit status is 0. Here the parts are run;
`router.app` builds them.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from aiohttp.typedefs import Middleware

from router.app import App, build
from router.backend import public_name
from router.child import DEAD_SHARD, RouterStartupError, emit, parse_config
from router.config import RouterConfig
from router.dispatch.dispatcher import Dispatcher
from router.dispatch.learned_state import save_periodically
from router.dispatch.recovery import Connect, keep_connected
from router.http import request_log
from router.http.otlp_metrics import make_meter_provider, metrics_middleware
from router.http.server import run_server
from router.http.tracing import make_tracer_provider, tracing_middleware
from router.offload import tune_event_loop
from router.shards.group import ShardGroup, ShardGroupFailed


class LauncherExited(Exception):
    """stdin has ended."""


def main() -> int:
    """Run until drained, abandoned or failed; return the exit status."""
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        line = stdin.readline()
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
    """Connect to the shards, then serve until drained or abandoned. Raises RouterStartupError."""
    threads = ThreadPoolExecutor(config.limits.validation_workers)
    asyncio.get_running_loop().set_default_executor(threads)
    stop = _on_sigterm()
    connect = partial(ShardGroup.connect, config.sockets, step_timeout=config.server.step_timeout)
    try:
        async with telemetry(config) as middlewares, connect() as shards:
            app = build(config, shards, middlewares)
            await run(app, config, shards, connect, stop)
    except ShardGroupFailed as lost:
        raise RouterStartupError(DEAD_SHARD, str(lost)) from lost


@asynccontextmanager
async def telemetry(config: RouterConfig) -> AsyncIterator[list[Middleware]]:
    """The middlewares that trace and measure requests, if an endpoint is set.

    What they have not sent leaves at exit.
    """
    server, model = config.server, public_name(config.model_id)
    if server.otlp_endpoint is None:
        yield []
        return
    async with AsyncExitStack() as exits:
        traces = make_tracer_provider(server.otlp_endpoint, server.otlp_service_name)
        exits.push_async_callback(asyncio.to_thread, traces.shutdown)
        middlewares = [tracing_middleware(traces, model)]
        if server.otlp_metrics:
            metrics = make_meter_provider(server.otlp_endpoint, server.otlp_service_name)
            exits.push_async_callback(asyncio.to_thread, metrics.shutdown)
            middlewares.append(metrics_middleware(metrics, model))
        yield middlewares


async def run(
    app: App, config: RouterConfig, shards: ShardGroup, connect: Connect, stop: asyncio.Event
) -> None:
    """Serve until `stop`, on `shards` first; `connect` connects to those that follow."""
    listener = socket.socket(fileno=config.listen_fd)
    try:
        async with asyncio.TaskGroup() as group:
            services = [
                group.create_task(service) for service in _services(app, config, shards, connect)
            ]
            await app.workers.prestart()
            tune_event_loop()
            await run_server(
                app.application,
                listener,
                config.server.max_connections,
                app.timeouts,
                on_ready=lambda: emit(event="ready", shard_limits=app.shard_limits),
                wait_drained=lambda: _drain(stop, app.dispatcher),
            )
            for task in services:
                task.cancel()
    except* LauncherExited:
        pass  # every live request has ended with an error
    finally:
        await app.workers.close()


def _services(
    app: App, config: RouterConfig, shards: ShardGroup, connect: Connect
) -> Iterator[Coroutine[None, None, None]]:
    """What runs as long as the server does."""
    started = asyncio.Queue[int]()
    yield app.dispatcher.run()
    yield keep_connected(
        shards, config.generation, connect, app.dispatcher, report_failure, started
    )
    yield read_launcher(started)
    yield save_periodically(app.state_file, app.dispatcher.view.learned_state)


def report_failure(generation: int, text: str) -> None:
    """Ask the launcher to start the shards again."""
    emit(event="shards_failed", generation=generation, text=text)


async def read_launcher(started: asyncio.Queue[int]) -> None:
    """Put each generation that stdin reports into `started`. Raises LauncherExited at its end."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        started.put_nowait(int(json.loads(line)["generation"]))
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
