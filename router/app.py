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

from router.child import BAD_FLAG, BAD_MODEL, RouterStartupError
from router.cloud import CLOUD_OPERATIONS, CloudRoutes
from router.config import RouterConfig, ServerConfig
from router.dispatch.dispatcher import Dispatcher
from router.dispatch.learned_state import SchedulerStateFile, state_path
from router.dispatch.step_log import StepLog
from router.http.access import AccessPolicy
from router.http.context import Timeouts
from router.http.openapi_document import openapi_document
from router.http.swagger import DocsRoutes
from router.native.openapi import NATIVE_OPERATIONS
from router.native.routes import Gateway
from router.native.token_routes import TokenizeRoutes
from router.observability.metrics import Metrics
from router.openai.chat_prompt import ChatPromptBuilder
from router.openai.openapi import OPENAI_OPERATIONS
from router.openai.routes import OpenAIRoutes
from router.requests.request import ResolvedLimits, resolve_limits
from router.scheduler import build
from router.scheduler.api import DeviceCapacity, Scheduler
from router.scheduler.config import SchedulerConfig
from router.server_info import ServerInfo
from router.shards.group import ShardGroup
from router.text.chat_template import ChatTemplate
from router.text.encoder import Encoder
from router.text.grammar import GrammarCompiler
from router.text.tokenizer import Tokenizer
from router.text.worker_pool import WorkerPool
from shard.wire.protocol import Ready


def scheduler_state_file(
    config: RouterConfig, environment: Mapping[str, str]
) -> SchedulerStateFile:
    """Where this server keeps what its scheduler learns."""
    pair = " ".join(filter(None, (config.model_id, config.draft_model_id)))
    return SchedulerStateFile(state_path(config.scheduler.scheduler_state, pair, environment), pair)


def build_router(
    config: RouterConfig,
    shards: ShardGroup,
    model: ServedModel,
    workers: WorkerPool,
    state_file: SchedulerStateFile,
) -> tuple[Dispatcher, Gateway]:
    """The router's parts for these shards. Raises Fault."""
    ranks = shards.ready_messages
    check_ranks_agree(ranks)
    try:
        bounds = resolve_limits(config.limits, min(ready.max_length for ready in ranks))
    except ValueError as fault:
        raise RouterStartupError(BAD_FLAG, str(fault)) from fault
    capacity = combined_capacity(ranks, bounds, config.scheduler.preemption)
    metrics = Metrics(bounds, capacity, ranks[0].drafter or "model")
    scheduler = build_scheduler(config.scheduler, capacity, state_file)
    encoder = Encoder(model.vocabulary, workers)
    log = StepLog(config.step_log, capacity) if config.step_log else None
    dispatcher = Dispatcher(scheduler, shards, encoder, bounds, metrics, log=log)
    patience = Timeouts(keepalive=config.server.keepalive_timeout)
    about = build_server_info(config, ranks)
    grammars = GrammarCompiler(workers, enabled=not bounds.disable_grammar_support)
    return dispatcher, Gateway(dispatcher, metrics, bounds, about, patience, grammars)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What the router knows of the target."""

    vocabulary: Tokenizer
    template: ChatTemplate | None
    tool_call_parser: str = "auto"


def load_model(config: RouterConfig) -> ServedModel:
    """The target's vocabulary and chat template. Raises Fault."""
    try:
        vocabulary = Tokenizer.load(config.model_path)
        template = ChatTemplate.load(config.model_path, config.server.tokenizer_config_path)
    except (OSError, ValueError) as fault:
        raise RouterStartupError(BAD_MODEL, f"tokenizer: {fault}") from fault
    return ServedModel(vocabulary, template, config.server.tool_call_parser)


def build_routes(
    gateway: Gateway,
    server_info: ServerInfo,
    model: ServedModel,
    logits_size: int,
    workers: WorkerPool,
    *,
    docs_ui: bool = True,
) -> list[web.RouteDef]:
    """What is served beside native generation; `size` is that of the model's logits."""
    prompts = ChatPromptBuilder(model.template, workers, model.tool_call_parser)
    encoder = Encoder(model.vocabulary, workers)
    openai = OpenAIRoutes(gateway, server_info, encoder, logits_size, prompts)
    hosted = CloudRoutes(gateway, openai)
    return [
        *TokenizeRoutes(gateway, encoder).routes(),
        *openai.routes(),
        *hosted.routes(os.environ.get("AIP_PREDICT_ROUTE")),
        *DocsRoutes(
            openapi_document((*NATIVE_OPERATIONS, *OPENAI_OPERATIONS, *CLOUD_OPERATIONS))
        ).routes(docs_ui=docs_ui),
    ]


def build_access_policy(server: ServerConfig) -> AccessPolicy:
    """Who may come in."""
    return AccessPolicy(
        api_key=server.api_key or None,
        protect_metrics=server.protect_metrics,
        allowed_origins=server.cors_allow_origin,
        max_connections=server.max_connections,
    )


def build_scheduler(
    config: SchedulerConfig, capacity: DeviceCapacity, state_file: SchedulerStateFile
) -> Scheduler:
    """The scheduler that goes on from what `store` holds."""
    try:
        return build(config, capacity, state_file.load())
    except ValueError as fault:
        state_file.warn_unusable(fault)
        return build(config, capacity)


def check_ranks_agree(ranks: tuple[Ready, ...]) -> None:
    """Raises Fault where ranks are not parts of one model; what they can hold may differ."""
    for name in ("model", "dtype", "page_size", "vocab_size", "speculate", "drafter"):
        values = [getattr(ready, name) for ready in ranks]
        for rank, value in enumerate(values):
            if value != values[0]:
                raise RouterStartupError(
                    BAD_MODEL,
                    f"the shards disagree on {name}: {values[0]!r} on rank 0, {value!r} on rank"
                    f" {rank}; start them all with the same model and flags",
                )


def combined_capacity(
    ranks: tuple[Ready, ...], bounds: ResolvedLimits, preemption: str = "auto"
) -> DeviceCapacity:
    """What all ranks together can hold and do: the least of what each can, rank 0's speed."""
    rows = min(ready.max_rows for ready in ranks)
    prefill = 512 if ranks[0].device == "cpu" else 4096
    return DeviceCapacity(
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


def build_server_info(config: RouterConfig, ranks: tuple[Ready, ...]) -> ServerInfo:
    """What the server says of itself: names, never a path."""
    device = ranks[0].device.lower().replace(" ", "-")
    draft = config.draft_model_id
    return ServerInfo(
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
