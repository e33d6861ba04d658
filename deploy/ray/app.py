"""The application: `serve run deploy.ray.app:build model=Qwen/Qwen3-8B gpus=2`.

Arguments are those of `Settings`. Values may be text, as the command line has them.
"""

from __future__ import annotations

import shlex
from typing import Any

from pydantic import BaseModel
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from deploy.ray.front import Front
from deploy.ray.replica import Replica

MAX_ONGOING = 1024
"""Requests at one replica; beyond its own limit the launcher answers 429."""


class Settings(BaseModel, extra="forbid"):
    """What the application is built from."""

    model: str = ""
    """Empty: the bundled pair."""
    launcher: str = "text-generation-launcher"
    flags: str = ""
    """Further flags of the launcher, as in a shell."""
    gpus: int = 0
    """GPUs, and shards, of each replica."""
    cpus: float = 1
    replicas: int = 1
    max_replicas: int = 0
    """More than `replicas`: scale on the estimated work up to so many."""
    upscale_seconds: float = 30
    """More replicas are started when the work has asked for them for so long."""
    downscale_seconds: float = 600
    """Replicas are stopped, after a drain, when the work has asked for fewer for so long."""
    router: str = "deploy.ray.router:LeastWaitRouter"
    report_seconds: float = 0.25
    """Time between two reports of a replica."""

    def command(self) -> tuple[str, ...]:
        """Return the launcher's command."""
        model = ("--model-id", self.model) if self.model else ()
        shards = ("--num-shard", str(self.gpus)) if self.gpus else ()
        return (*shlex.split(self.launcher), *model, *shards, *shlex.split(self.flags))


def build(args: dict[str, str]) -> Application:
    """Return the application. Raises pydantic's ValidationError."""
    settings = Settings.model_validate(args)
    replicas = serve.deployment(Replica, name="replica").options(**replica_options(settings))
    front = serve.deployment(Front, name="front").options(
        max_ongoing_requests=16 * MAX_ONGOING, ray_actor_options={"num_cpus": 0}
    )
    application: Application = front.bind(replicas.bind(settings.command()))
    return application


def replica_options(settings: Settings) -> dict[str, Any]:
    """Return the options of the deployment of replicas: resources, router and scale."""
    return {
        "max_ongoing_requests": MAX_ONGOING,
        "ray_actor_options": {"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        "placement_group_bundles": [_bundle(settings)],
        "placement_group_strategy": "STRICT_PACK",
        "request_router_config": RequestRouterConfig(
            request_router_class=settings.router,
            request_routing_stats_period_s=settings.report_seconds,
        ),
        **_scale(settings),
    }


def _bundle(settings: Settings) -> dict[str, float]:
    gpus = {"GPU": float(settings.gpus)} if settings.gpus else {}
    return {"CPU": settings.cpus, **gpus}


def _scale(settings: Settings) -> dict[str, object]:
    if settings.max_replicas <= settings.replicas:
        return {"num_replicas": settings.replicas}
    policy = AutoscalingPolicy(policy_function="deploy.ray.autoscaling:by_estimated_work")
    autoscaling = AutoscalingConfig(
        policy=policy,
        min_replicas=settings.replicas,
        max_replicas=settings.max_replicas,
        upscale_delay_s=settings.upscale_seconds,
        downscale_delay_s=settings.downscale_seconds,
    )
    return {"autoscaling_config": autoscaling}
