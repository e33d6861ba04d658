"""A round that runs out of memory is retried in halves; a row that fails alone ends alone.

First the rows are halved, then a single row's prefill chunk. A failed round leaves no trace, so the
halves emit what the whole would have. A single rank finds out by running the round. With several
ranks, one that fails within a forward would leave the others in a collective; so a round with a
prefill, or with a row whose grammar may force tokens, runs only after every rank has allocated and
freed the memory that it needs. All ranks get the same answer and split alike. Other rounds are not
checked, since the largest of them has run at warm-up. If a rank runs out of memory nevertheless,
the group ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from shard.model.memory import ForwardWorkspace
from shard.model.packed_model import PackedModel
from shard.rounds.drafter import Drafter
from shard.rounds.host_round import RowTask, run_round
from shard.wire.protocol import End, RowResult

_log = logging.getLogger(__name__)
_CPU_OOM_TEXT = "can't allocate memory"
"""From the message of torch's CPU allocator, which has no exception class of its own."""

RoundAttempt = Callable[[PackedModel, Drafter | None, Sequence[RowTask]], tuple[RowResult, ...]]
"""`run_round`, or OutOfRoom on every rank."""


class OutOfRoom(Exception):
    """There is not enough memory for the round; it left no trace."""


def run_alone(
    target: PackedModel, drafter: Drafter | None, tasks: Sequence[RowTask]
) -> tuple[RowResult, ...]:
    """The `RoundAttempt` of a single rank."""
    try:
        return run_round(target, drafter, tasks)
    except RuntimeError as fault:
        if is_out_of_memory(fault):
            raise OutOfRoom from fault
        raise


@dataclass(frozen=True, slots=True)
class RunWithAgreement:
    """The `RoundAttempt` of one rank of several.

    `all_agree(vote)` is a collective: True if every rank votes True.
    """

    workspace: ForwardWorkspace
    device: torch.device
    all_agree: Callable[[bool], bool]

    def __call__(
        self, target: PackedModel, drafter: Drafter | None, tasks: Sequence[RowTask]
    ) -> tuple[RowResult, ...]:
        """See `RoundAttempt`."""
        checked = any(task.prefill or task.forced for task in tasks)
        if checked and not self.all_agree(self._fits_in_memory(tasks)):
            raise OutOfRoom
        return run_round(target, drafter, tasks)

    def _fits_in_memory(self, tasks: Sequence[RowTask]) -> bool:
        tokens = sum(task.prefill or _decoded_tokens(task) for task in tasks)
        logits = sum(
            task.prefill if task.row.report.prompt_logprobs else _decoded_tokens(task)
            for task in tasks
        )
        pairs = sum(task.prefill * (task.row.cached + task.prefill) for task in tasks)
        size = self.workspace.estimate_bytes(tokens, logits, pairs)
        try:
            torch.empty(size, dtype=torch.uint8, device=self.device)
        except RuntimeError as fault:
            if is_out_of_memory(fault):
                return False
            raise
        return True


def _decoded_tokens(task: RowTask) -> int:
    return 1 + max(task.draft, task.forced, task.suffix)


def run_splitting_on_oom(
    attempt: RoundAttempt, target: PackedModel, drafter: Drafter | None, tasks: Sequence[RowTask]
) -> tuple[RowResult, ...]:
    """Do `tasks` with `attempt`, in as many parts as memory requires."""
    draft_cached = [task.row.draft_cached for task in tasks]
    try:
        return attempt(target, drafter, tasks)
    except OutOfRoom:
        _log.warning("out of memory with %d rows; splitting the round", len(tasks))
    for task, cached in zip(tasks, draft_cached, strict=True):
        task.row.draft_cached = cached
    return _run_halves(attempt, target, drafter, tasks)


def is_out_of_memory(fault: Exception) -> bool:
    """Whether torch could not allocate a tensor."""
    return isinstance(fault, torch.OutOfMemoryError) or _CPU_OOM_TEXT in str(fault)


def _run_halves(
    attempt: RoundAttempt, target: PackedModel, drafter: Drafter | None, tasks: Sequence[RowTask]
) -> tuple[RowResult, ...]:
    def retry(*part: RowTask) -> tuple[RowResult, ...]:
        return run_splitting_on_oom(attempt, target, drafter, part)

    if len(tasks) > 1:
        middle = len(tasks) // 2
        return retry(*tasks[:middle]) + retry(*tasks[middle:])
    [task] = tasks
    if task.prefill > 1:
        return _run_half_chunks(retry, task)
    if task.draft or task.forced or task.suffix:
        draft, forced, suffix = task.draft // 2, task.forced // 2, task.suffix // 2
        return retry(replace(task, draft=draft, forced=forced, suffix=suffix))
    task.row.done = True
    return (RowResult(task.row.id, (), (), 0, 0, End.ERROR),)


def _run_half_chunks(
    rerun: Callable[[RowTask], tuple[RowResult, ...]], task: RowTask
) -> tuple[RowResult, ...]:
    """Run a chunk as two and join their results; the row may end with the first."""
    part = task.prefill // 2
    [first] = rerun(replace(task, prefill=part))
    if first.end is not None:
        return (first,)
    [second] = rerun(replace(task, prefill=task.prefill - part))
    if not first.prompt_logprobs:
        return (second,)
    return (
        replace(
            second,
            prompt_start=first.prompt_start,
            prompt_logprobs=first.prompt_logprobs + second.prompt_logprobs,
            prompt_top=first.prompt_top + second.prompt_top,
        ),
    )
