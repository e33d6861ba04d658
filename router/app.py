"""The router's parts, put together for one model and the shards that serve it.

What they are told follows from the configuration and from what the ranks say of themselves; ranks
that contradict each other are refused. Nothing runs yet when this is done.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from router.child import BAD_FLAG, BAD_MODEL, Fault
from router.cloud import HOSTED, Hosted
from router.config import RouterConfig, SchedulerConfig, ServerConfig
from router.dispatch.dispatcher import Dispatcher
from router.dispatch.learned_state import Store, place
from router.dispatch.step_log import StepLog
from router.http.access import Access
from router.http.context import Patience
from router.http.openapi_document import document
from router.http.swagger import Docs
from router.native.openapi import NATIVE
from router.native.routes import Front
from router.native.token_routes import Tokens
from router.observability.metrics import Metrics
from router.openai.chat_prompt import Prompts
from router.openai.openapi import OPENAI
from router.openai.routes import OpenAi
from router.requests.request import Bounds, settle
from router.scheduler import build
from router.scheduler.api import Capacity, Scheduler
from router.server_info import About
from router.shards.group import ShardGroup
from router.text.chat_template import ChatTemplate
from router.text.encoder import Encoder
from router.text.grammar import Grammars
from router.text.tokenizer import Vocabulary
from router.text.worker_pool import Workers
from shard.wire.protocol import Ready


def remember(config: RouterConfig, environment: Mapping[str, str]) -> Store:
    """Where this server keeps what its scheduler learns."""
    pair = " ".join(filter(None, (config.model_id, config.draft_model_id)))
    return Store(place(config.scheduler.scheduler_state, pair, environment), pair)


def assemble(
    config: RouterConfig, shards: ShardGroup, model: Model, workers: Workers, store: Store
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
    scheduler = schedule(config.scheduler, capacity, store)
    encoder = Encoder(model.vocabulary, workers)
    log = StepLog(config.step_log, capacity) if config.step_log else None
    dispatcher = Dispatcher(scheduler, shards, encoder, bounds, metrics, log=log)
    patience = Patience(keepalive=config.server.keepalive_timeout)
    about = describe(config, ranks)
    grammars = Grammars(workers, enabled=not bounds.disable_grammar_support)
    return dispatcher, Front(dispatcher, metrics, bounds, about, patience, grammars)


@dataclass(frozen=True, slots=True)
class Model:
    """What the router knows of the target."""

    vocabulary: Vocabulary
    template: ChatTemplate | None
    tool_call_parser: str = "auto"


def load_model(config: RouterConfig) -> Model:
    """The target's vocabulary and chat template. Raises Fault."""
    try:
        vocabulary = Vocabulary.load(config.model_path)
        template = ChatTemplate.load(config.model_path, config.server.tokenizer_config_path)
    except (OSError, ValueError) as fault:
        raise Fault(BAD_MODEL, f"tokenizer: {fault}") from fault
    return Model(vocabulary, template, config.server.tool_call_parser)


def routes(
    front: Front, about: About, model: Model, size: int, workers: Workers, *, pages: bool = True
) -> list[web.RouteDef]:
    """What is served beside native generation; `size` is that of the model's logits."""
    prompts = Prompts(model.template, workers, model.tool_call_parser)
    encoder = Encoder(model.vocabulary, workers)
    openai = OpenAi(front, about, encoder, size, prompts)
    hosted = Hosted(front, openai)
    return [
        *Tokens(front, encoder).routes(),
        *openai.routes(),
        *hosted.routes(os.environ.get("AIP_PREDICT_ROUTE")),
        *Docs(document((*NATIVE, *OPENAI, *HOSTED))).routes(pages=pages),
    ]


def access(server: ServerConfig) -> Access:
    """Who may come in."""
    return Access(
        key=server.api_key or None,
        protect_metrics=server.protect_metrics,
        origins=server.cors_allow_origin,
        connections=server.max_connections,
    )


def schedule(config: SchedulerConfig, capacity: Capacity, store: Store) -> Scheduler:
    """The scheduler that goes on from what `store` holds."""
    try:
        return build(config, capacity, store.load())
    except ValueError as fault:
        store.reject(fault)
        return build(config, capacity)


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
        scheduler=config.scheduler.scheduler,
    )


def _name(model: str) -> str:
    return Path(model).resolve().name if Path(model).is_dir() else model
