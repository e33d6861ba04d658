"""What is told of the scheduler: to operators of all requests, to callers of their own.

Pure: values in, JSON-ready values out. Times are seconds, to the microsecond; levels are counted
as in `tgi_queue_depth`, from 0, the highest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from router.requests.record import Record
from router.scheduler.api import Look, View


def perceptible_share(view: View) -> float:
    """Share of the live requests whose remaining time is known well enough to rank by it."""
    live = view.running + sum(view.waiting)
    return min(1.0, view.perceptible / live) if live else 0.0


def overview(policy: str, view: View) -> dict[str, Any]:
    """The `scheduler` of `/info`."""
    return {
        "policy": policy,
        "queue_depth": list(view.waiting),
        "running": view.running,
        "perceptible_share": _rounded(perceptible_share(view)),
        "estimate_error": _rounded(view.estimate_error),
        "acceptance_rate": _rounded(view.acceptance),
        "preemptions": dict(view.preemptions),
    }


def spent(record: Record) -> dict[str, Any]:
    """Ours in the details of an answer: the wait, the device's time, and interruptions by kind."""
    return {
        "queue_time": _rounded(record.started - record.queued),
        "attained_service": _rounded(record.attained),
        "preemptions": dict(record.preemptions),
    }


def standing(request_id: str, found: Iterable[tuple[Record, Look | None]]) -> dict[str, Any]:
    """Body of `/requests/{request_id}`; best_of and the like are several sequences of one id."""
    return {
        "request_id": request_id,
        "sequences": [_sequence(record, look) for record, look in found],
    }


def _sequence(record: Record, look: Look | None) -> dict[str, Any]:
    told = {"state": _state(record, look), "emitted_tokens": len(record.tokens)}
    if look is None:  # the scheduler is still to hear of it
        return told
    return told | {
        "level": max(0, look.level - 1),
        "perceptible": look.perceptible,
        "estimated_wait": _rounded(look.wait),
        "estimated_service": _rounded(look.remaining),
        "attained_service": _rounded(look.attained),
        "preemptions": dict(look.preemptions),
    }


def _state(record: Record, look: Look | None) -> str:
    if look is not None and look.wait <= 0:
        return "running"
    return "paused" if record.steps else "queued"


def _rounded(value: float) -> float:
    return round(value, 6)
