"""What the routes serve from: the dispatcher over the shards, and what is known of them.

How it is built follows from the configuration and from what the ranks report; ranks that contradict
each other are rejected. Nothing runs yet when this is done.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import inf
from pathlib import Path

from router.capacity import check_ranks_agree, combined_capacity
from router.child import BAD_FLAG, RouterStartupError
from router.config import Limits, RouterConfig
from router.dispatch.adapter_loads import AdapterLoads
from router.dispatch.dispatcher import Dispatcher
from router.dispatch.draft_watch import DraftWatch
from router.dispatch.learned_state import SchedulerStateFile
from router.dispatch.step_log import StepLog
from router.observability.metrics import Metrics
from router.observability.recorded_scheduler import recorded
from router.openai.model_names import ModelNames
from router.requests.adapters import AdapterRegistry
from router.requests.request import ResolvedLimits, resolve_limits
from router.scheduler import build as scheduler_for
from router.scheduler.api import DeviceCapacity, Scheduler
from router.scheduler.config import SchedulerConfig
from router.served_model import ServedModel
from router.server_info import ServerInfo
from router.shards.group import ShardGroup
from shard.wire.protocol import Ready


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


def resolve_bounds(limits: Limits, max_length: int) -> ResolvedLimits:
    """`limits` for rows of up to `max_length` tokens. Raises RouterStartupError."""
    try:
        return resolve_limits(limits, max_length)
    except ValueError as fault:
        raise RouterStartupError(BAD_FLAG, str(fault)) from fault


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
        drafter=ranks[0].drafter or None,
    )


def public_name(model: str) -> str:
    """The name of a model that clients see: of a folder, its last part."""
    return Path(model).resolve().name if Path(model).is_dir() else model
