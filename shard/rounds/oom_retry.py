"""A round that runs out of memory is tried again in halves; what fails alone ends alone.

First the rows are halved, then a lone prefill chunk. Nothing of a round is kept when it fails, so
the halves emit what the whole would have. A rank that is alone finds out by running the round.
Among several, one that fails within a forward would leave the others in a collective; so there a
round with a prefill is run only once every rank has taken, and given back, the memory that it
needs. All ranks learn the one answer and halve alike. Rounds that only decode are not asked for:
the largest of them has run at warm-up. Where a rank runs out of memory nevertheless, the group
ends.
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
"""What torch's CPU allocator says; it has no exception of its own."""

RoundAttempt = Callable[[PackedModel, Drafter | None, Sequence[RowTask]], tuple[RowResult, ...]]
"""`host_round.run`, or OutOfRoom on every rank."""


class OutOfRoom(Exception):
    """The round takes more memory than there is; nothing of it was kept."""


def run_alone(
    target: PackedModel, drafter: Drafter | None, tasks: Sequence[RowTask]
) -> tuple[RowResult, ...]:
    """The RoundAttempt of a rank without others."""
    try:
        return run_round(target, drafter, tasks)
    except RuntimeError as fault:
        if is_out_of_memory(fault):
            raise OutOfRoom from fault
        raise


@dataclass(frozen=True, slots=True)
class RunWithAgreement:
    """The RoundAttempt of one rank among several. `all_agree` is whether all ranks say yes."""

    workspace: ForwardWorkspace
    device: torch.device
    all_agree: Callable[[bool], bool]

    def __call__(
        self, target: PackedModel, drafter: Drafter | None, tasks: Sequence[RowTask]
    ) -> tuple[RowResult, ...]:
        """See `RoundAttempt`."""
        if any(work.prefill for work in tasks) and not self.all_agree(self._fits_in_memory(tasks)):
            raise OutOfRoom
        return run_round(target, drafter, tasks)

    def _fits_in_memory(self, tasks: Sequence[RowTask]) -> bool:
        tokens = sum(work.prefill or 1 + work.draft for work in tasks)
        logits = sum(
            work.prefill if work.row.report.prompt_logprobs else 1 + work.draft for work in tasks
        )
        pairs = sum(work.prefill * (work.row.cached + work.prefill) for work in tasks)
        size = self.workspace.estimate_bytes(tokens, logits, pairs)
        try:
            torch.empty(size, dtype=torch.uint8, device=self.device)
        except RuntimeError as fault:
            if is_out_of_memory(fault):
                return False
            raise
        return True


def run_splitting_on_oom(
    attempt: RoundAttempt, target: PackedModel, drafter: Drafter | None, tasks: Sequence[RowTask]
) -> tuple[RowResult, ...]:
    """`works` by `attempt`, in as many parts as memory asks for."""
    caches = [work.row.draft_cached for work in tasks]
    try:
        return attempt(target, drafter, tasks)
    except OutOfRoom:
        _log.warning("out of memory with %d rows; trying less at once", len(tasks))
    for work, cached in zip(tasks, caches, strict=True):
        work.row.draft_cached = cached
    return _run_halves(attempt, target, drafter, tasks)


def is_out_of_memory(fault: Exception) -> bool:
    """Whether torch could not allocate a tensor."""
    return isinstance(fault, torch.OutOfMemoryError) or _CPU_OOM_TEXT in str(fault)


def _run_halves(
    attempt: RoundAttempt, target: PackedModel, drafter: Drafter | None, tasks: Sequence[RowTask]
) -> tuple[RowResult, ...]:
    def again(*part: RowTask) -> tuple[RowResult, ...]:
        return run_splitting_on_oom(attempt, target, drafter, part)

    if len(tasks) > 1:
        middle = len(tasks) // 2
        return again(*tasks[:middle]) + again(*tasks[middle:])
    [work] = tasks
    if work.prefill > 1:
        return _run_half_chunks(again, work)
    if work.draft:
        return again(replace(work, draft=work.draft // 2))
    work.row.done = True
    return (RowResult(work.row.id, (), (), 0, 0, End.ERROR),)


def _run_half_chunks(
    rerun: Callable[[RowTask], tuple[RowResult, ...]], task: RowTask
) -> tuple[RowResult, ...]:
    """Two chunks as one: an end of the first is the end, else the second's item tells both."""
    part = task.prefill // 2
    [first] = rerun(replace(task, prefill=part))
    if first.end is not None:
        return (first,)
    [second] = rerun(replace(task, prefill=task.prefill - part))
    if not first.prompt_logprobs:
        return (second,)
    told = replace(
        second,
        prompt_start=first.prompt_start,
        prompt_logprobs=first.prompt_logprobs + second.prompt_logprobs,
        prompt_top=first.prompt_top + second.prompt_top,
    )
    return (told,)
