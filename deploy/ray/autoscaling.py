"""How many replicas: enough for the estimated work of all live requests."""

from __future__ import annotations

from math import ceil
from typing import Any

from deploy.ray.replica import WORK

TARGET_SECONDS = 20.0
"""Estimated device seconds of live requests that one replica should have."""


def replicas_for(work: float, least: int, most: int) -> int:
    """Return the number of replicas for `work` seconds, within the bounds."""
    return min(most, max(least, ceil(work / TARGET_SECONDS)))


def by_estimated_work(context: Any) -> tuple[int, dict[str, Any]]:
    """Ray Serve's autoscaling policy, over what replicas record."""
    work = sum(context.aggregated_metrics.get(WORK, {}).values())
    bounds = context.capacity_adjusted_min_replicas, context.capacity_adjusted_max_replicas
    return replicas_for(work, *bounds), {}
