"""A server in virtual time: a scheduler, the device that it drives, and the Steps in flight.

Decides nothing and reads no clock. Its driver fills the pipeline whenever something has happened,
as the live dispatcher does, and says which event is next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from math import inf

from benchmark.simulation.device import Answer, VirtualDevice
from router.scheduler.api import Job, Outcome, ScheduledBatch, Scheduler


class VirtualServer:
    """One scheduler with its device. Times are virtual, in seconds."""

    def __init__(self, scheduler: Scheduler, device: VirtualDevice, depth: int) -> None:
        """`depth`: maximum number of Steps in flight."""
        self.scheduler = scheduler
        self._device, self._depth = device, depth
        self._ends, self._free = deque[float](), 0.0

    @property
    def next_end(self) -> float:
        """The end of the oldest Step in flight; infinite without any."""
        return self._ends[0] if self._ends else inf

    def submit(self, job: Job, answer: Answer, now: float) -> None:
        """Add a request."""
        self._device.add_request(job, answer)
        self.scheduler.submit(job, now)

    def fill(self, now: float) -> Iterator[ScheduledBatch]:
        """Send Batches while there are any and the pipeline has room; yield each."""
        while len(self._ends) < self._depth:
            batch = self.scheduler.next_batch(now)
            if batch is None:
                return
            self._free = max(self._free, now) + self._device.send(batch)
            self._ends.append(self._free)
            yield batch

    def finish(self) -> tuple[float, Sequence[Outcome]]:
        """End the oldest Step in flight. Return when, and its outcomes."""
        now = self._ends.popleft()
        outcomes = self._device.finish(now)
        self.scheduler.complete(outcomes, now)
        return now, outcomes
