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

from shard.model.memory import Workspace
from shard.model.packed_model import PackedModel
from shard.rounds.drafters import Drafter
from shard.rounds.host_round import Work, run
from shard.wire.protocol import End, Item

_log = logging.getLogger(__name__)
_CPU_WORDS = "can't allocate memory"
"""What torch's CPU allocator says; it has no exception of its own."""

Attempt = Callable[[PackedModel, Drafter | None, Sequence[Work]], tuple[Item, ...]]
"""`speculative.run`, or NoRoom on every rank."""


class NoRoom(Exception):
    """The round takes more memory than there is; nothing of it was kept."""


def alone(target: PackedModel, drafter: Drafter | None, works: Sequence[Work]) -> tuple[Item, ...]:
    """The Attempt of a rank without others."""
    try:
        return run(target, drafter, works)
    except RuntimeError as fault:
        if out_of_memory(fault):
            raise NoRoom from fault
        raise


@dataclass(frozen=True, slots=True)
class Together:
    """The Attempt of one rank among several. `unanimous` is whether all ranks say yes."""

    workspace: Workspace
    device: torch.device
    unanimous: Callable[[bool], bool]

    def __call__(
        self, target: PackedModel, drafter: Drafter | None, works: Sequence[Work]
    ) -> tuple[Item, ...]:
        """See `Attempt`."""
        if any(work.prefill for work in works) and not self.unanimous(self._has_room(works)):
            raise NoRoom
        return run(target, drafter, works)

    def _has_room(self, works: Sequence[Work]) -> bool:
        tokens = sum(work.prefill or 1 + work.draft for work in works)
        logits = sum(work.prefill if work.row.report.prompt else 1 + work.draft for work in works)
        pairs = sum(work.prefill * (work.row.cached + work.prefill) for work in works)
        size = self.workspace.bytes(tokens, logits, pairs)
        try:
            torch.empty(size, dtype=torch.uint8, device=self.device)
        except RuntimeError as fault:
            if out_of_memory(fault):
                return False
            raise
        return True


def run_in_halves(
    attempt: Attempt, target: PackedModel, drafter: Drafter | None, works: Sequence[Work]
) -> tuple[Item, ...]:
    """`works` by `attempt`, in as many parts as memory asks for."""
    caches = [work.row.draft_cached for work in works]
    try:
        return attempt(target, drafter, works)
    except NoRoom:
        _log.warning("out of memory with %d rows; trying less at once", len(works))
    for work, cached in zip(works, caches, strict=True):
        work.row.draft_cached = cached
    return _halves(attempt, target, drafter, works)


def out_of_memory(fault: Exception) -> bool:
    """Whether torch could not allocate a tensor."""
    return isinstance(fault, torch.OutOfMemoryError) or _CPU_WORDS in str(fault)


def _halves(
    attempt: Attempt, target: PackedModel, drafter: Drafter | None, works: Sequence[Work]
) -> tuple[Item, ...]:
    def again(*part: Work) -> tuple[Item, ...]:
        return run_in_halves(attempt, target, drafter, part)

    if len(works) > 1:
        middle = len(works) // 2
        return again(*works[:middle]) + again(*works[middle:])
    [work] = works
    if work.prefill > 1:
        return _half_chunks(again, work)
    if work.draft:
        return again(replace(work, draft=work.draft // 2))
    work.row.done = True
    return (Item(work.row.id, (), (), 0, 0, End.ERROR),)


def _half_chunks(again: Callable[[Work], tuple[Item, ...]], work: Work) -> tuple[Item, ...]:
    """Two chunks as one: an end of the first is the end, else the second's item tells both."""
    part = work.prefill // 2
    [first] = again(replace(work, prefill=part))
    if first.end is not None:
        return (first,)
    [second] = again(replace(work, prefill=work.prefill - part))
    if not first.prompt_logprobs:
        return (second,)
    told = replace(
        second,
        prompt_start=first.prompt_start,
        prompt_logprobs=first.prompt_logprobs + second.prompt_logprobs,
        prompt_top=first.prompt_top + second.prompt_top,
    )
    return (told,)
