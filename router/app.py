"""The router's parts, built for one model and the shards that serve it.

How they are built follows from the configuration and from what the ranks report; ranks that
contradict each other are rejected. Nothing runs yet when this is done.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Middleware

from router.anthropic.error_form import anthropic_error
from router.anthropic.openapi import ANTHROPIC_OPERATIONS
from router.anthropic.routes import PREFIX as MESSAGES_PREFIX
from router.anthropic.routes import REQUEST_ID_HEADER as MESSAGES_REQUEST_ID_HEADER
from router.anthropic.routes import MessagesRoutes
from router.capacity import check_ranks_agree, combined_capacity, shard_limits
from router.child import BAD_FLAG, RouterStartupError
from router.cloud import CLOUD_OPERATIONS, CloudRoutes
from router.config import Limits, RouterConfig, ServerConfig
from router.debug.debug_routes import DEBUG_OPERATIONS, DebugRoutes
from router.dispatch.adapter_loads import AdapterLoads
from router.dispatch.dispatcher import Dispatcher
from router.dispatch.draft_watch import DraftWatch
from router.dispatch.intake import Intake
from router.dispatch.learned_state import SchedulerStateFile, state_path
from router.dispatch.step_log import StepLog
from router.errors import openai_error
from router.http.access import AccessPolicy
from router.http.gateway import Gateway, Timeouts
from router.http.openapi_document import openapi_document
from router.http.route_group import RouteGroup
from router.http.server import build_application
from router.http.swagger import DocsRoutes
from router.native.openapi import NATIVE_OPERATIONS
from router.native.routes import NativeRoutes
from router.native.status_routes import StatusRoutes
from router.observability.metrics import Metrics
from router.observability.recorded_scheduler import recorded
from router.openai.adapter_routes import ADAPTER_OPERATIONS, AdapterRoutes
from router.openai.chat_prompt import ChatPromptBuilder
from router.openai.generation import GenerationBuilder
from router.openai.model_names import ModelNames
from router.openai.openapi import OPENAI_OPERATIONS
from router.openai.responder import Responder
from router.openai.routes import PREFIX, OpenAIRoutes
from router.pages.page_routes import PAGE_PATHS, PageRoutes
from router.requests.adapters import AdapterRegistry
from router.requests.request import ResolvedLimits, resolve_limits
from router.scheduler import build as scheduler_for
from router.scheduler.api import DeviceCapacity, Scheduler
from router.scheduler.config import SchedulerConfig
from router.served_model import ServedModel, load_model, log_unknown_tokens
from router.server_info import ServerInfo
from router.shards.group import ShardGroup
from router.text.chat_template import NO_TEMPLATE
from router.text.encoder import Encoder
from router.text.grammar import GrammarCompiler
from router.text.worker_pool import TextWorkers, WorkerFiles
from shard.wire.protocol import Ready

_log = logging.getLogger(__name__)

OPERATIONS = (
    *NATIVE_OPERATIONS,
    *OPENAI_OPERATIONS,
    *ADAPTER_OPERATIONS,
    *ANTHROPIC_OPERATIONS,
    *CLOUD_OPERATIONS,
    *DEBUG_OPERATIONS,
)
"""Of the OpenAPI document."""


def scheduler_state_file(
    config: RouterConfig, environment: Mapping[str, str]
) -> SchedulerStateFile:
    """The file in which this server keeps what its scheduler has learned."""
    pair = " ".join(filter(None, (config.model_id, config.draft_model_id)))
    return SchedulerStateFile(state_path(config.scheduler.scheduler_state, pair, environment), pair)


def resolve_bounds(limits: Limits, max_length: int) -> ResolvedLimits:
    """`limits` for rows of up to `max_length` tokens. Raises RouterStartupError."""
    try:
        return resolve_limits(limits, max_length)
    except ValueError as fault:
        raise RouterStartupError(BAD_FLAG, str(fault)) from fault


@dataclass(frozen=True, slots=True)
class App:
    """The router's parts, of which `router.__main__` runs three: dispatcher, workers and server."""

    dispatcher: Dispatcher
    workers: TextWorkers
    state_file: SchedulerStateFile
    application: web.Application
    timeouts: Timeouts
    shard_limits: dict[str, int]
    """Fields of ShardConfig with which the shards, started again, have the same capacity."""


def build(config: RouterConfig, shards: ShardGroup, middlewares: Sequence[Middleware] = ()) -> App:
    """The router for these shards. Raises RouterStartupError."""
    state_file, model = scheduler_state_file(config, os.environ), load_model(config)
    ready = shards.ready_messages[0]
    log_unknown_tokens(model.tokenizer, ready.vocab_size)
    if model.template is None:
        _log.warning("chat requests are refused: %s", NO_TEMPLATE)
    workers = TextWorkers(
        WorkerFiles(config.model_path, ready.vocab_size, config.server.tokenizer_config_path),
        config.limits.validation_workers,
    )
    backend = build_backend(config, shards, model, state_file)
    timeouts = Timeouts(
        body=config.server.body_timeout,
        stall=config.server.write_timeout,
        keepalive=config.server.keepalive_timeout,
    )
    pages = not config.server.no_ui
    groups = build_route_groups(backend, model, workers, timeouts, with_pages=pages)
    application = build_application(
        groups, build_access_policy(config.server), backend.bounds.payload_limit, middlewares
    )
    return App(
        backend.dispatcher,
        workers,
        state_file,
        application,
        timeouts,
        shard_limits(backend.capacity),
    )


@dataclass(frozen=True, slots=True)
class Backend:
    """What the routes serve from."""

    dispatcher: Dispatcher
    metrics: Metrics
    bounds: ResolvedLimits
    server_info: ServerInfo
    capacity: DeviceCapacity
    """Of all ranks together."""
    vocabulary_size: int
    """Number of the model's logits."""
    names: ModelNames
    """What `model` may be."""


def build_backend(
    config: RouterConfig, shards: ShardGroup, model: ServedModel, state_file: SchedulerStateFile
) -> Backend:
    """The dispatcher over `shards`, and what is known of them. Raises RouterStartupError."""
    ranks = shards.ready_messages
    check_ranks_agree(ranks)
    bounds = resolve_bounds(config.limits, min(ready.max_length for ready in ranks))
    capacity = combined_capacity(ranks, bounds, config.scheduler.preemption)
    server_info = build_server_info(config, ranks)
    metrics = Metrics(
        bounds,
        capacity,
        ranks[0].drafter or "model",
        config.server.metrics_names,
        server_info.model_id,
    )
    dispatcher = Dispatcher(
        recorded(build_scheduler(config.scheduler, capacity, state_file), config, capacity),
        shards,
        model.tokenizer,
        bounds.max_concurrent_requests,
        metrics,
        log=StepLog(config.step_log, capacity) if config.step_log else None,
        draft_watch=DraftWatch(ranks[0].drafter or "model") if capacity.speculate else None,
        max_queue_seconds=bounds.max_queue_seconds or inf,
        load_seconds=config.load_seconds,
        max_unread_tokens=bounds.max_unread_tokens,
        adapters=AdapterLoads(
            AdapterRegistry(config.adapters, config.adapter_paths),
            config.lora_folder,
            config.max_lora_bytes,
        ),
    )
    names = ModelNames(server_info.model_id, dispatcher.adapters, config.may_have_adapters)
    return Backend(dispatcher, metrics, bounds, server_info, capacity, ranks[0].vocab_size, names)


def build_route_groups(
    backend: Backend,
    model: ServedModel,
    workers: TextWorkers,
    timeouts: Timeouts,
    *,
    with_pages: bool = True,
) -> list[RouteGroup]:
    """Everything that is served, in groups whose errors have one form."""
    bounds, server_info = backend.bounds, backend.server_info
    encoder = Encoder(model.tokenizer, workers.long_texts)
    grammars = GrammarCompiler(workers.jobs, enabled=not bounds.disable_grammar_support)
    intake = Intake(
        backend.dispatcher,
        encoder,
        grammars,
        bounds,
        backend.capacity.page_size,
        backend.vocabulary_size,
    )
    gateway = Gateway(backend.dispatcher, intake, backend.metrics, bounds, timeouts)
    prompts = ChatPromptBuilder(model.template, workers.jobs, model.tool_call_parser)
    native = NativeRoutes(gateway, server_info, encoder)
    generations = GenerationBuilder(
        bounds,
        server_info,
        model.tokenizer,
        backend.vocabulary_size,
        prompts,
        model.defaults,
        backend.names,
    )
    responder = Responder(gateway, server_info)
    openai = OpenAIRoutes(gateway, server_info, encoder, prompts, generations, responder)
    adapters = AdapterRoutes(gateway, backend.dispatcher, server_info)
    messages = MessagesRoutes(gateway, encoder, prompts, generations, responder)
    routes = [
        *native.routes(),
        *StatusRoutes(backend.dispatcher, backend.metrics, bounds, server_info).routes(),
        *openai.tgi_routes(),
        *CloudRoutes(gateway, native, openai).routes(os.environ.get("AIP_PREDICT_ROUTE")),
        *DebugRoutes(gateway, backend.dispatcher).routes(),
        *DocsRoutes(openapi_document(OPERATIONS)).routes(docs_ui=with_pages),
        *(PageRoutes().routes() if with_pages else ()),
    ]
    return [
        RouteGroup(routes),
        RouteGroup([*openai.routes(), *adapters.routes()], PREFIX, openai_error),
        RouteGroup(
            messages.routes(), MESSAGES_PREFIX, anthropic_error, (MESSAGES_REQUEST_ID_HEADER,)
        ),
    ]


def build_access_policy(server: ServerConfig) -> AccessPolicy:
    """The access policy that the flags describe. Raises RouterStartupError."""
    try:
        keys = server.api_keys()
    except ValueError as fault:
        raise RouterStartupError(BAD_FLAG, str(fault)) from fault
    return AccessPolicy(
        api_keys=keys,
        prefix_cache_per_key=server.prefix_cache_per_key,
        protect_metrics=server.protect_metrics,
        open_paths=frozenset() if server.no_ui else PAGE_PATHS,
        allowed_origins=server.cors_allow_origin,
        max_connections=server.max_connections,
    )


def build_scheduler(
    config: SchedulerConfig, capacity: DeviceCapacity, state_file: SchedulerStateFile
) -> Scheduler:
    """The scheduler, which continues from the state in `state_file`."""
    try:
        return scheduler_for(config, capacity, state_file.load())
    except ValueError as fault:
        state_file.warn_unusable(fault)
        return scheduler_for(config, capacity)


def build_server_info(config: RouterConfig, ranks: tuple[Ready, ...]) -> ServerInfo:
    """The server's description of itself: names, never a path."""
    device = ranks[0].device.lower().replace(" ", "-")
    draft = config.draft_model_id
    return ServerInfo(
        model_id=public_name(config.model_id),
        model_sha=config.revision,
        pipeline_tag=None,
        compute_type=os.environ.get("COMPUTE_TYPE") or f"{len(ranks)}-{device}",
        validation_workers=config.limits.validation_workers,
        speculate=ranks[0].speculate,
        draft_model_id=None if draft is None else public_name(draft),
        scheduler=config.scheduler.scheduler,
    )


def public_name(model: str) -> str:
    """The name of a model that clients see: of a folder, its last part."""
    return Path(model).resolve().name if Path(model).is_dir() else model
