"""Why a job in a worker process did not succeed."""

from __future__ import annotations


class JobRejected(Exception):
    """The job's input is invalid.

    `missing_variable` is the variable that a chat template needs and did not get, if that is the
    reason.
    """

    def __init__(self, text: str, missing_variable: str | None = None) -> None:
        super().__init__(text)
        self.missing_variable = missing_variable


class WorkerLimitExceeded(Exception):
    """The job exceeded its time or memory limit."""
