"""What the dispatcher is doing: health, scheduler, requests, and the state for `/debug/state`.

It only reads what the dispatcher and its parts own. Who may ask, and in which form the answer is
sent, is decided by the routes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from router.dispatch.admission import Admission
from router.dispatch.current_shards import CurrentShards
from router.dispatch.live_requests import LiveRequests
from router.dispatch.step_results import StepResults
from router.observability.metrics import Metrics
from router.observability.server_state import MAX_LISTED_REQUESTS, ServerState
from router.observability.state_builder import StateSources, build_server_state
from router.requests.record import LiveRequest
from router.scheduler.api import RequestStatus, Scheduler, SchedulerStatus


@dataclass(frozen=True, slots=True)
class DispatcherView:
    """Read-only view of one dispatcher's parts."""

    _clock: Callable[[], float]
    _scheduler: Scheduler
    _shards: CurrentShards
    _records: LiveRequests
    _admission: Admission
    _results: StepResults
    _metrics: Metrics
    _paused: Collection[int]

    def request_statuses(
        self, request_id: str, caller: str = ""
    ) -> list[tuple[LiveRequest, RequestStatus | None]]:
        """The live sequences of `request_id`, each with its status once the scheduler knows it.

        If several HTTP requests of `caller` have that id, they are those of the newest.
        """
        now = self._clock()
        return [
            (each, self._scheduler.request_status(each.id, now))
            for each in self._records.newest(request_id, caller)
        ]

    def scheduler_status(self) -> SchedulerStatus:
        """The scheduler's current state."""
        return self._scheduler.status()

    def server_state(self) -> ServerState:
        """What the server is doing now, for `/debug/state`."""
        now, group = self._clock(), self._shards.group
        sources = StateSources(
            now=now,
            health=self.unhealthy_reason(),
            seconds_since_answers=group.seconds_since_answers(now),
            steps_in_flight=group.steps_in_flight,
            status=self._scheduler.status(),
            snapshot=self._scheduler.snapshot(MAX_LISTED_REQUESTS),
            records=self._records,
            activity=self._results.activity.summary(now),
            failures=self._metrics.failures(),
            restarts=self._metrics.restarts(),
            drafter=self._metrics.drafter,
        )
        return build_server_state(sources)

    def learned_state(self) -> dict[str, Any]:
        """The scheduler's learned state, which is worth saving."""
        return self._scheduler.learned_state()

    def unhealthy_reason(self) -> str | None:
        """None if healthy; else `failed`, `draining`, `restarting` or `stalled`."""
        if self._shards.closed:
            return "failed"
        if self._admission.draining:
            return "draining"
        if self._shards.group.failure:
            return "restarting"
        return "stalled" if self._shards.group.is_stalled(self._clock()) else None

    def seconds_to_restart(self) -> float:
        """Estimated seconds until the shards serve again; 0 if they do."""
        return self._shards.seconds_to_restart(self._clock())

    @property
    def permits_held(self) -> int:
        """Number of permits that are held."""
        return self._admission.held

    @property
    def paused_count(self) -> int:
        """Number of streams that are paused, since their clients do not read."""
        return len(self._paused)

    @property
    def live_count(self) -> int:
        """Number of requests that the scheduler knows or will know; 0 once all have ended."""
        return len(self._records)
