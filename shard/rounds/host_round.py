"""One round of batched assisted generation: draft, verify all rows at once, accept, roll back.

Rows are ragged: each brings its own number of drafts (0 is plain decoding) or a prefill chunk,
and all share one target forward. A draft is accepted while it equals the target's own coupled
choice at its position; the first difference is replaced by that choice and ends the row's round
(Leviathan et al. 2023, with Gumbel-max coupling in place of rejection). So what is emitted is
always what the target alone would have emitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.model.packed_model import PackedModel
from shard.rounds.drafters import Drafter, DraftRequest
from shard.rounds.verify import Verification, prompt_logprobs_wanted, verify
from shard.wire.protocol import End, ProtocolError, RowResult


@dataclass(frozen=True, slots=True)
class RowTask:
    """What a Step asks of one live row: `prefill` known tokens, or 0 and at most `draft`."""

    row: CachedRow
    prefill: int
    draft: int


def run_round(
    target: PackedModel, drafter: Drafter | None, tasks: Sequence[RowTask]
) -> tuple[RowResult, ...]:
    """Do every work in one round and return its items in order.

    Raises ProtocolError for work that does not fit its row.
    """
    chunks = [_prefill_span(work) for work in tasks if work.prefill]
    asks = {} if drafter is None else _draft_requests(drafter, tasks)
    if drafter is not None:
        drafter.propose(list(asks.values()), chunks)
    feeds = [*chunks, *(_verify_span(work.row, asks) for work in tasks if not work.prefill)]
    if not feeds:
        return ()
    eos = target.facts.eos
    drafts = [asks[feed.row.id].drafts if feed.row.id in asks else () for feed in feeds]
    verdicts = verify(target.logits(feeds), feeds, drafts, eos)
    items = [
        _accept(feed, verdict, asks.get(feed.row.id), drafter, eos)
        for feed, verdict in zip(feeds, verdicts, strict=True)
    ]
    return tuple(items)


def _prefill_span(task: RowTask) -> TokenSpan:
    row, stop = task.row, task.row.cached + task.prefill
    if stop > len(row.tokens):
        raise ProtocolError(f"row {row.id} has no {stop} tokens to prefill")
    whole = prompt_logprobs_wanted(row, row.cached, stop)
    wanted = task.prefill if whole else int(stop == len(row.tokens))
    return TokenSpan(row, row.cached, row.tokens[row.cached : stop], wanted)


def _draft_requests(drafter: Drafter, tasks: Sequence[RowTask]) -> dict[int, DraftRequest]:
    """Drafts wanted by row, never more than the row may still emit beside the bonus token."""
    asks = {}
    for work in tasks:
        count = min(work.draft, work.row.remaining - 1, drafter.max_drafts(work.row))
        if count > 0 and not work.prefill:
            asks[work.row.id] = DraftRequest(work.row, count)
    return asks


def _verify_span(row: CachedRow, requests: dict[int, DraftRequest]) -> TokenSpan:
    if row.cached != len(row.tokens) - 1:
        raise ProtocolError(f"row {row.id} cannot decode: its prefill is not finished")
    drafts = requests[row.id].drafts if row.id in requests else []
    return TokenSpan(row, row.cached, [row.tokens[-1], *drafts], 1 + len(drafts))


def _accept(
    feed: TokenSpan,
    verification: Verification,
    request: DraftRequest | None,
    drafter: Drafter | None,
    eos: frozenset[int],
) -> RowResult:
    """Move the row on by what `verdict` confirms."""
    row, known = feed.row, len(feed.row.tokens)
    drafts = [] if request is None else request.drafts
    if not verification.valid:
        row.done = True
        return RowResult(row.id, (), (), len(drafts), 0, End.ERROR)
    accepted = _agreeing_count(drafts, verification.tokens)
    row.cached = min(feed.start + len(feed.tokens), known + accepted)
    if request is not None and drafter is not None:
        drafter.rollback(request, known, accepted)
    kept, end = row.append(verification.tokens[: accepted + 1], eos)
    told = verification.sampled[: len(kept)]
    return RowResult(
        id=row.id,
        tokens=tuple(kept),
        logprobs=tuple(choice.logprob for choice in told),
        drafted=len(drafts),
        accepted=min(accepted, len(kept)),
        end=end,
        top=tuple(choice.top for choice in told) if row.report.top_n else (),
        prompt_start=feed.start + 1 if verification.prompt_logprobs else 0,
        prompt_logprobs=verification.prompt_logprobs,
        prompt_top=verification.prompt_top,
        draft_cached=row.draft_cached if drafter is not None and drafter.caches else row.cached,
    )


def _agreeing_count(drafts: Sequence[int], chosen: Sequence[int]) -> int:
    """How many leading drafts equal the target's choices."""
    for index, draft in enumerate(drafts):
        if draft != chosen[index]:
            return index
    return len(drafts)
