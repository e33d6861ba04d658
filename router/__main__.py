"""The router child: its configuration on stdin, its reports on stdout, its logs on stderr.

The first line of stdin is the RouterConfig as JSON; the end of stdin means that the launcher is
gone or wants this process to end. Each line of stdout is one JSON object: `ready`, or a `fault`
whose code is the exit status. SIGTERM drains: live requests finish, then the exit status is 0.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from router import logs
from router.access import Access
from router.chat import ChatTemplate
from router.config import Limits, RouterConfig, SchedulerConfig, ServerConfig
from router.dispatcher import Dispatcher
from router.docs import Docs
from router.grammar import Grammars
from router.hosted import Hosted
from router.metrics import Metrics
from router.native import About
from router.openai.operations import OPENAI
from router.openai.prompts import Prompts
from router.openai.routes import OpenAi
from router.openapi import NATIVE, document
from router.request import Bounds, settle
from router.routes import Front, Patience
from router.scheduler import build
from router.scheduler.base import Capacity
from router.server import run
from router.shards import GroupLost, ShardGroup
from router.text import Vocabulary
from router.tokens import Tokens
from router.workers import Files, Workers
from shard.protocol import Ready

FAILED, BAD_FLAG, BAD_MODEL, DEAD_SHARD = 1, 2, 4, 8
"""Exit statuses of the faults that this process can meet."""


class Fault(Exception):
    """The router cannot start or go on: an exit status, and one line on cause and cure."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class LauncherGone(Exception):
    """stdin has ended."""


def main() -> int:
    """Run until drained, abandoned or at fault; the exit status."""
    logs.configure(os.environ.get("LOG_LEVEL", ""))
    line = sys.stdin.buffer.readline()
    if not line:
        return 0
    try:
        asyncio.run(serve(parse(line)))
    except Fault as fault:
        emit(event="fault", code=fault.code, text=str(fault))
        return fault.code
    return 0


def parse(line: bytes) -> RouterConfig:
    """The configuration in a JSON `line`; nested dataclasses are objects, tuples arrays."""
    value = json.loads(line)
    nested = {
        "limits": Limits(**value["limits"]),
        "scheduler": SchedulerConfig(**value["scheduler"]),
        "server": server(value["server"]),
        "sockets": tuple(value["sockets"]),
    }
    return RouterConfig(**{**value, **nested})


def server(value: dict[str, Any]) -> ServerConfig:
    """The same of the part for the server."""
    return ServerConfig(**{**value, "cors_allow_origin": tuple(value["cors_allow_origin"])})


def emit(**event: Any) -> None:
    """Tell the launcher."""
    print(json.dumps(event), flush=True)


async def serve(config: RouterConfig) -> None:
    """Greet the shards, then serve until drained or abandoned. Raises Fault."""
    workers = ThreadPoolExecutor(config.limits.validation_workers)
    asyncio.get_running_loop().set_default_executor(workers)
    stop = _on_sigterm()
    try:
        async with ShardGroup.connect(
            config.sockets, step_seconds=config.server.step_timeout
        ) as shards:
            await serve_from(config, shards, stop)
    except GroupLost as lost:
        raise Fault(DEAD_SHARD, str(lost)) from lost


async def serve_from(config: RouterConfig, shards: ShardGroup, stop: asyncio.Event) -> None:
    """The same, with greeted `shards`, until `stop`. Raises Fault, also when they are lost."""
    model = load_model(config)
    files = Files(config.model_path, shards.ready[0].vocab_size)
    workers = Workers(files, config.limits.validation_workers)
    dispatcher, front = assemble(config, shards, model, workers)
    listener = socket.socket(fileno=config.listen_fd)
    try:
        async with asyncio.TaskGroup() as group:
            others = [group.create_task(dispatcher.run()), group.create_task(launcher_goes())]
            await workers.warm()
            await run(
                front,
                listener,
                access(config.server),
                routes(front, describe(config, shards.ready), model, files.vocab_size, workers),
                ready=lambda: emit(event="ready"),
                drained=lambda: _drain(stop, dispatcher),
            )
            for task in others:
                task.cancel()
    except* LauncherGone:
        pass  # whatever was live has been told that it is lost
    except* GroupLost as lost:
        raise Fault(FAILED, f"the shards were lost: {lost.exceptions[0]}") from None
    finally:
        await workers.close()


def assemble(
    config: RouterConfig, shards: ShardGroup, model: Model, workers: Workers
) -> tuple[Dispatcher, Front]:
    """The router's parts for these shards. Raises Fault."""
    ranks = shards.ready
    agree(ranks)
    try:
        bounds = settle(config.limits, min(ready.max_length for ready in ranks))
    except ValueError as fault:
        raise Fault(BAD_FLAG, str(fault)) from fault
    capacity = measure(ranks, bounds, config.scheduler.preemption)
    metrics = Metrics(bounds, capacity, len(ranks), ranks[0].drafter or "model")
    scheduler = build(config.scheduler, capacity)
    dispatcher = Dispatcher(scheduler, shards, model.vocabulary, bounds, metrics)
    patience = Patience(keepalive=config.server.keepalive_timeout)
    about = describe(config, ranks)
    return dispatcher, Front(dispatcher, metrics, bounds, about, patience, Grammars(workers))


@dataclass(frozen=True, slots=True)
class Model:
    """What the router knows of the target."""

    vocabulary: Vocabulary
    template: ChatTemplate | None


def load_model(config: RouterConfig) -> Model:
    """The target's vocabulary and chat template. Raises Fault."""
    try:
        vocabulary = Vocabulary.load(config.model_path)
        template = ChatTemplate.load(config.model_path)
    except (OSError, ValueError) as fault:
        raise Fault(BAD_MODEL, f"tokenizer: {fault}") from fault
    return Model(vocabulary, template)


def routes(
    front: Front, about: About, model: Model, size: int, workers: Workers
) -> list[web.RouteDef]:
    """What is served beside native generation; `size` is that of the model's logits."""
    prompts = Prompts(model.template, workers)
    openai = OpenAi(front, about, model.vocabulary, size, prompts)
    hosted = Hosted(front, {"messages": openai.chat, "prompt": openai.completions})
    return [
        *Tokens(front, model.vocabulary).routes(),
        *openai.routes(),
        *hosted.routes(os.environ.get("AIP_PREDICT_ROUTE")),
        *Docs(document((*NATIVE, *OPENAI))).routes(),
    ]


def access(server: ServerConfig) -> Access:
    """Who may come in."""
    return Access(
        key=server.api_key or None,
        protect_metrics=server.protect_metrics,
        origins=server.cors_allow_origin,
        connections=server.max_connections,
    )


def agree(ranks: tuple[Ready, ...]) -> None:
    """Raises Fault where ranks are not parts of one model; what they can hold may differ."""
    for name in ("model", "dtype", "page_size", "vocab_size", "speculate", "drafter"):
        values = [getattr(ready, name) for ready in ranks]
        for rank, value in enumerate(values):
            if value != values[0]:
                raise Fault(
                    BAD_MODEL,
                    f"the shards disagree on {name}: {values[0]!r} on rank 0, {value!r} on rank"
                    f" {rank}; start them all with the same model and flags",
                )


def measure(ranks: tuple[Ready, ...], bounds: Bounds, preemption: str = "auto") -> Capacity:
    """What all ranks together can hold and do: the least of what each can, rank 0's speed."""
    rows = min(ready.max_rows for ready in ranks)
    prefill = 512 if ranks[0].device == "cpu" else 4096
    return Capacity(
        pages=min(ready.pages for ready in ranks),
        page_size=ranks[0].page_size,
        max_rows=min(rows, bounds.max_batch_size or rows),
        prefill_tokens=bounds.max_batch_prefill_tokens or prefill,
        speculate=ranks[0].speculate,
        draft_token_seconds=ranks[0].draft_token_seconds,
        verify_seconds=ranks[0].verify_seconds,
        costs=tuple((cost.rows, cost.draft, cost.seconds) for cost in ranks[0].costs),
        catch_up_seconds=ranks[0].catch_up_seconds,
        host_pages=min(ready.host_pages for ready in ranks),
        swap_token_seconds=max(ready.swap_token_seconds for ready in ranks),
        prefill_token_seconds=max(ready.prefill_token_seconds for ready in ranks),
        preemption=preemption,
    )


def describe(config: RouterConfig, ranks: tuple[Ready, ...]) -> About:
    """What the server says of itself: names, never a path."""
    device = ranks[0].device.lower().replace(" ", "-")
    draft = config.draft_model_id
    return About(
        model_id=_name(config.model_id),
        model_sha=config.revision,
        pipeline_tag=None,
        compute_type=os.environ.get("COMPUTE_TYPE") or f"{len(ranks)}-{device}",
        validation_workers=config.limits.validation_workers,
        speculate=ranks[0].speculate,
        draft_model_id=None if draft is None else _name(draft),
    )


async def launcher_goes() -> None:
    """Wait for the end of stdin. Raises LauncherGone."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while await reader.read(4096):
        pass
    raise LauncherGone


def _on_sigterm() -> asyncio.Event:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    return stop


async def _drain(stop: asyncio.Event, dispatcher: Dispatcher) -> None:
    await stop.wait()
    await dispatcher.drain()


def _name(model: str) -> str:
    return Path(model).resolve().name if Path(model).is_dir() else model


if __name__ == "__main__":
    sys.exit(main())
