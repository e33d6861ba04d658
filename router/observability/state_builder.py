"""Builds a ServerState from what its owners report at one moment. Pure.

Its size is bounded by the number of rows in the scheduler's snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from router.observability.recent_activity import ActivitySummary, Quantiles
from router.observability.server_state import (
    MAX_ID_LENGTH,
    CountsState,
    DelayQuantiles,
    DraftingState,
    KvCacheState,
    PreemptionCounts,
    RequestState,
    ServerState,
    ShardsState,
)
from router.requests.record import LiveRequest
from router.scheduler.api import SchedulerStatus
from router.scheduler.snapshot import RowSnapshot, SchedulerSnapshot


@dataclass(frozen=True, slots=True)
class StateSources:
    """Everything that a ServerState is made of; `records` are the live requests by id."""

    now: float
    health: str | None
    seconds_since_answers: Sequence[float]
    steps_in_flight: int
    status: SchedulerStatus
    snapshot: SchedulerSnapshot
    records: Mapping[int, LiveRequest]
    activity: ActivitySummary
    failures: Mapping[str, int]
    restarts: int
    drafter: str | None


def build_server_state(sources: StateSources) -> ServerState:
    """The server at the moment of `sources`."""
    status, snapshot, activity = sources.status, sources.snapshot, sources.activity
    return ServerState(
        time=_rounded(sources.now),
        shards=ShardsState.model_validate(
            {
                "health": sources.health or "ready",
                "seconds_since_answer": list(map(_rounded, sources.seconds_since_answers)),
                "steps_in_flight": sources.steps_in_flight,
            }
        ),
        running=status.running,
        queue_depth=list(status.waiting),
        requests=[
            _request_state(row, sources.records[row.id])
            for row in snapshot.rows
            if row.id in sources.records
        ],
        unlisted_requests=snapshot.row_count - len(snapshot.rows),
        kv_cache=KvCacheState(**asdict(snapshot.pages)),
        tokens_per_second=_rounded(activity.tokens_per_second),
        time_to_first_token=_delay_quantiles(activity.first_token),
        inter_token=_delay_quantiles(activity.inter_token),
        drafting=_drafting_state(sources),
        counts=CountsState(
            preemptions=PreemptionCounts(**status.preemptions),
            restarts=sources.restarts,
            failures=dict(sources.failures),
        ),
    )


def _request_state(row: RowSnapshot, record: LiveRequest) -> RequestState:
    return RequestState.model_validate(
        {
            "number": row.id,
            "request_id": record.request_id[:MAX_ID_LENGTH],
            "phase": row.phase,
            "level": max(0, row.level - 1),
            "aged": row.level == 0,
            "perceptible": row.perceptible,
            "remaining_seconds": _rounded(row.remaining_seconds),
            "attained_seconds": _rounded(row.device_seconds),
            "prompt_tokens": len(record.prompt),
            "emitted_tokens": len(record.tokens),
            "max_new_tokens": record.max_new,
            "pages": row.pages,
            "draft_length": row.draft_length,
            "drafted": record.drafted,
            "accepted": record.accepted,
            "survival": list(map(_rounded, row.survival)),
            "preemptions": dict(row.preemptions),
        }
    )


def _drafting_state(sources: StateSources) -> DraftingState:
    survival = list(map(_rounded, sources.snapshot.survival))
    lengths = [row.draft_length for row in sources.snapshot.rows if row.phase == "decode"]
    return DraftingState(
        drafter=sources.drafter,
        max_draft_length=len(survival),
        draft_length=_rounded(sum(lengths) / len(lengths)) if lengths else 0.0,
        acceptance_rate=_rounded(sources.status.acceptance_rate),
        survival=survival,
    )


def _delay_quantiles(quantiles: Quantiles) -> DelayQuantiles:
    p50, p90, p99 = map(_rounded_or_none, (quantiles.p50, quantiles.p90, quantiles.p99))
    return DelayQuantiles(p50=p50, p90=p90, p99=p99)


def _rounded_or_none(value: float | None) -> float | None:
    return None if value is None else _rounded(value)


def _rounded(value: float) -> float:
    return round(value, 6)
