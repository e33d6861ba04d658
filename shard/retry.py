"""A round that runs out of memory is tried again in halves; what fails alone ends alone.

First the rows are halved, then a lone prefill chunk. Nothing of a round is kept when it fails, so
the halves emit what the whole would have. Only where the rank is alone: on several ranks a retry
of one would leave the others in a collective, so there the fault ends the group.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from shard.drafters import Drafter
from shard.model import PackedModel
from shard.protocol import End, Item
from shard.speculative import Work, run

_log = logging.getLogger(__name__)
_CPU_WORDS = "can't allocate memory"
"""What torch's CPU allocator says; it has no exception of its own."""


def run_in_halves(
    target: PackedModel, drafter: Drafter | None, works: Sequence[Work]
) -> tuple[Item, ...]:
    """`speculative.run`, in as many parts as memory asks for."""
    caches = [work.row.draft_cached for work in works]
    try:
        return run(target, drafter, works)
    except RuntimeError as fault:
        if not out_of_memory(fault):
            raise
    for work, cached in zip(works, caches, strict=True):
        work.row.draft_cached = cached
    _log.warning("out of memory with %d rows; trying less at once", len(works))
    return _halves(target, drafter, works)


def out_of_memory(fault: Exception) -> bool:
    """Whether torch could not allocate a tensor."""
    return isinstance(fault, torch.OutOfMemoryError) or _CPU_WORDS in str(fault)


def _halves(
    target: PackedModel, drafter: Drafter | None, works: Sequence[Work]
) -> tuple[Item, ...]:
    if len(works) > 1:
        middle = len(works) // 2
        first = run_in_halves(target, drafter, works[:middle])
        return first + run_in_halves(target, drafter, works[middle:])
    [work] = works
    if work.prefill > 1:
        return _half_chunks(target, drafter, work)
    if work.draft:
        return run_in_halves(target, drafter, [replace(work, draft=work.draft // 2)])
    work.row.done = True
    return (Item(work.row.id, (), (), 0, 0, End.ERROR),)


def _half_chunks(target: PackedModel, drafter: Drafter | None, work: Work) -> tuple[Item, ...]:
    """Two chunks as one: an end of the first is the end, else the second's item tells both."""
    part = work.prefill // 2
    [first] = run_in_halves(target, drafter, [replace(work, prefill=part)])
    if first.end is not None:
        return (first,)
    [second] = run_in_halves(target, drafter, [replace(work, prefill=work.prefill - part)])
    if not first.prompt_logprobs:
        return (second,)
    told = replace(
        second,
        prompt_start=first.prompt_start,
        prompt_logprobs=first.prompt_logprobs + second.prompt_logprobs,
        prompt_top=first.prompt_top + second.prompt_top,
    )
    return (told,)
