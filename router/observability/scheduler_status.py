"""What is told of the scheduler: to operators of all requests, to callers of their own.

Pure: values in, JSON-ready values out. Times are seconds, to the microsecond; levels are counted
as in `tgi_queue_depth`, from 0, the highest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from router.requests.record import LiveRequest
from router.scheduler.api import RequestStatus, SchedulerStatus


def perceptible_share(view: SchedulerStatus) -> float:
    """Share of the live requests whose remaining time is known well enough to rank by it."""
    live = view.running + sum(view.waiting)
    return min(1.0, view.perceptible / live) if live else 0.0


def scheduler_info(policy: str, view: SchedulerStatus) -> dict[str, Any]:
    """The `scheduler` of `/info`."""
    return {
        "policy": policy,
        "queue_depth": list(view.waiting),
        "running": view.running,
        "perceptible_share": _rounded(perceptible_share(view)),
        "estimate_error": _rounded(view.estimate_error),
        "acceptance_rate": _rounded(view.acceptance_rate),
        "preemptions": dict(view.preemptions),
    }


def service_details(record: LiveRequest) -> dict[str, Any]:
    """Ours in the details of an answer: the wait, the device's time, and interruptions by kind."""
    return {
        "queue_time": _rounded(record.started - record.queued),
        "attained_service": _rounded(record.device_seconds),
        "preemptions": dict(record.preemptions),
    }


def request_status(
    request_id: str, sequences: Iterable[tuple[LiveRequest, RequestStatus | None]]
) -> dict[str, Any]:
    """Body of `/requests/{request_id}`; best_of and the like are several sequences of one id."""
    return {
        "request_id": request_id,
        "sequences": [_sequence_status(record, look) for record, look in sequences],
    }


def _sequence_status(record: LiveRequest, status: RequestStatus | None) -> dict[str, Any]:
    told = {"state": _state(record, status), "emitted_tokens": len(record.tokens)}
    if status is None:  # the scheduler is still to hear of it
        return told
    return told | {
        "level": max(0, status.level - 1),
        "perceptible": status.perceptible,
        "estimated_wait": _rounded(status.wait),
        "estimated_service": _rounded(status.remaining_seconds),
        "attained_service": _rounded(status.device_seconds),
        "preemptions": dict(status.preemptions),
    }


def _state(record: LiveRequest, status: RequestStatus | None) -> str:
    if status is not None and status.wait <= 0:
        return "running"
    return "paused" if record.steps else "queued"


def _rounded(value: float) -> float:
    return round(value, 6)
