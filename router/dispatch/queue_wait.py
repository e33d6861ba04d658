"""How long requests wait: what a refused client is advised, and who has waited for too long.

Decides from the scheduler's estimates and the times that are given; reads no clock. The sequences
of one HTTP request are judged together: none is refused once another has run, because the response
may have begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from router.dispatch.current_shards import CurrentShards
from router.dispatch.live_requests import LiveRequests
from router.errors import Overloaded
from router.requests.record import LiveRequest
from router.scheduler.api import Scheduler

REFRESH_SECONDS = 0.25
"""Age at which an estimate is renewed, since under overload it is wanted for each refusal."""

Refusal = tuple[LiveRequest, Overloaded]


class QueueWait:
    """The wait of `records` for their first Step, at most `max_seconds`."""

    def __init__(
        self,
        scheduler: Scheduler,
        shards: CurrentShards,
        records: LiveRequests,
        max_seconds: float = inf,
    ) -> None:
        self._scheduler, self._shards, self._records = scheduler, shards, records
        self._max_seconds = max_seconds
        self._seconds_per_end, self._estimated_at = 0.0, -inf

    @property
    def is_limited(self) -> bool:
        """Whether requests are ever refused for their wait."""
        return self._max_seconds < inf

    def seconds_until_ended(self, count: int, now: float) -> float:
        """Estimated seconds until `count` more live requests have ended."""
        if now - self._estimated_at >= REFRESH_SECONDS:
            self._seconds_per_end = self._scheduler.seconds_per_end()
            self._estimated_at = now
        return self._shards.seconds_to_restart(now) + count * self._seconds_per_end

    def refuse_arrival(self, record: LiveRequest, now: float) -> list[Refusal]:
        """The refusal of `record`, which has just joined the queue, if it would wait too long."""
        if not self.is_limited or self._is_later_sequence(record):
            return []
        wait = self._estimate(record, now)
        return [(record, Overloaded(wait))] if wait > self._max_seconds else []

    def refuse_overdue(self, now: float) -> list[Refusal]:
        """Refusals of all that have waited too long."""
        if not self.is_limited:
            return []
        late = _overdue(list(self._records.values()), self._max_seconds, now)
        return [(record, Overloaded(self._estimate(record, now))) for record in late]

    def _is_later_sequence(self, record: LiveRequest) -> bool:
        """Whether an earlier sequence of its call has been accepted."""
        records = self._records.values()
        return any(other.call == record.call and other.id < record.id for other in records)

    def _estimate(self, record: LiveRequest, now: float) -> float:
        """Estimated seconds until the first Step of `record`."""
        status = self._scheduler.request_status(record.id, now)
        return self._shards.seconds_to_restart(now) + (status.wait if status else 0.0)


def _overdue(
    records: Sequence[LiveRequest], max_seconds: float, now: float
) -> Sequence[LiveRequest]:
    """The requests that have waited for `max_seconds`, unless their call has begun to run."""
    waiting = [record for record in records if not record.is_scheduled]
    late = [record for record in waiting if now - record.queued >= max_seconds]
    begun = {record.call for record in records if record.is_scheduled} if late else set()
    return [record for record in late if record.call not in begun]
