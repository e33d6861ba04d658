"""The scheduler's status as JSON: of all requests for operators, of one request for its caller.

Pure: values in, JSON-ready values out. Times are seconds, rounded to microseconds. Levels are those
of `tgi_queue_depth`: 0 is the highest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from router.requests.record import LiveRequest
from router.scheduler.api import RequestStatus, SchedulerStatus


def perceptible_share(status: SchedulerStatus) -> float:
    """Fraction of the live requests whose remaining time is known well enough to rank by it."""
    live = status.running + sum(status.waiting)
    return min(1.0, status.perceptible / live) if live else 0.0


def scheduler_info(policy: str, status: SchedulerStatus) -> dict[str, Any]:
    """The object `scheduler` of `/info`."""
    return {
        "policy": policy,
        "queue_depth": list(status.waiting),
        "running": status.running,
        "perceptible_share": _rounded(perceptible_share(status)),
        "estimate_error": _rounded(status.estimate_error),
        "acceptance_rate": _rounded(status.acceptance_rate),
        "preemptions": dict(status.preemptions),
    }


def service_details(record: LiveRequest) -> dict[str, Any]:
    """Additions to the `details` of a response: queue time, device time, preemptions by kind."""
    return {
        "queue_time": _rounded(record.started - record.queued),
        "attained_service": _rounded(record.device_seconds),
        "preemptions": dict(record.preemptions),
    }


def request_status(
    request_id: str, sequences: Iterable[tuple[LiveRequest, RequestStatus | None]]
) -> dict[str, Any]:
    """The body of `/requests/{request_id}`; a request with `best_of` has several sequences."""
    return {
        "request_id": request_id,
        "sequences": [_sequence_status(record, status) for record, status in sequences],
    }


def _sequence_status(record: LiveRequest, status: RequestStatus | None) -> dict[str, Any]:
    fields = {"state": _state(record, status), "emitted_tokens": len(record.tokens)}
    if status is None:  # not yet submitted to the scheduler
        return fields
    return fields | {
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
