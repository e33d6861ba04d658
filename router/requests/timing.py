"""How long the phases of a finished request took.

Rule: only a request's own readings of the dispatcher's clock count; nothing is measured here.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.requests.record import LiveRequest


@dataclass(frozen=True, slots=True)
class Timing:
    """Durations of the phases of a request, in seconds."""

    total: float
    validation: float
    queue: float
    inference: float
    per_token: float


def timing(record: LiveRequest) -> Timing:
    """The times of a finished `record`."""
    inference = record.ended - record.started
    return Timing(
        total=record.ended - record.arrived,
        validation=record.queued - record.arrived,
        queue=record.started - record.queued,
        inference=inference,
        per_token=inference / len(record.tokens),
    )
