"""The router's parts, built for one model and the shards that serve it.

The backend, the workers for texts, the routes and who may call them. Nothing runs yet when this is
done.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Middleware

from router.backend import build_backend
from router.capacity import shard_limits
from router.child import BAD_FLAG, RouterStartupError
from router.config import RouterConfig, ServerConfig
from router.dispatch.dispatcher import Dispatcher
from router.dispatch.learned_state import SchedulerStateFile, state_path
from router.http.access import AccessPolicy
from router.http.gateway import Timeouts
from router.http.server import build_application
from router.pages.page_routes import PAGE_PATHS
from router.route_groups import build_route_groups
from router.served_model import load_model, log_unknown_tokens
from router.shards.group import ShardGroup
from router.text.chat_template import NO_TEMPLATE
from router.text.worker_pool import TextWorkers, WorkerFiles

_log = logging.getLogger(__name__)


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


def scheduler_state_file(
    config: RouterConfig, environment: Mapping[str, str]
) -> SchedulerStateFile:
    """The file in which this server keeps what its scheduler has learned."""
    pair = " ".join(filter(None, (config.model_id, config.draft_model_id)))
    return SchedulerStateFile(state_path(config.scheduler.scheduler_state, pair, environment), pair)


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
