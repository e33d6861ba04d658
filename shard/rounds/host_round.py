"""One round of batched assisted generation on the host: draft, verify all rows, accept, roll back.

Rows are ragged: each brings its own number of drafts (0 is plain decoding) or a prefill chunk, and
all share one target forward. A draft is accepted while it equals the target's own coupled choice
at its position; the first difference is replaced by that choice and ends the row's round
(Leviathan et al. 2023, with Gumbel-max coupling in place of rejection). So the tokens are always
those that the target alone would have emitted. A round does not know which drafter there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.model.packed_model import PackedModel
from shard.rounds.drafter import Drafter, DraftRequest
from shard.rounds.verify import Verification, prompt_logprobs_wanted, verify
from shard.wire.protocol import GRAMMAR, End, ProtocolError, RowResult


@dataclass(frozen=True, slots=True)
class RowTask:
    """A Step's work for one live row: `prefill` known tokens, or 0 and up to `draft` drafts."""

    row: CachedRow
    prefill: int
    draft: int
    forced: int = 0
    """Maximum number of tokens that the row's grammar forces, which are drafted instead."""
    suffix: int = 0
    """Maximum number of tokens that suffix decoding drafts, where it finds any."""


def run_round(
    target: PackedModel, drafter: Drafter | None, tasks: Sequence[RowTask]
) -> tuple[RowResult, ...]:
    """Do all `tasks` in one round; the results are in order, prefills first.

    Raises ProtocolError for a task that does not fit its row.
    """
    chunks = [_prefill_span(task) for task in tasks if task.prefill]
    requests = _forced_requests(tasks)
    if drafter is not None:
        proposed = _draft_requests(drafter, [t for t in tasks if t.row.id not in requests])
        drafter.propose(list(proposed.values()), chunks)
        requests |= proposed
    spans = [*chunks, *(_verify_span(task.row, requests) for task in tasks if not task.prefill)]
    if not spans:
        return ()
    eos = target.facts.eos
    drafts = [requests[s.row.id].drafts if s.row.id in requests else () for s in spans]
    verifications = verify(target.logits(spans), spans, drafts, eos)
    return tuple(
        _accept(span, verification, requests.get(span.row.id), drafter, eos)
        for span, verification in zip(spans, verifications, strict=True)
    )


def _prefill_span(task: RowTask) -> TokenSpan:
    row, stop = task.row, task.row.cached + task.prefill
    if stop > len(row.tokens):
        raise ProtocolError(f"row {row.id} has no {stop} tokens to prefill")
    reports_prompt = prompt_logprobs_wanted(row, row.cached, stop)
    logit_count = task.prefill if reports_prompt else int(stop == len(row.tokens))
    return TokenSpan(row, row.cached, row.tokens[row.cached : stop], logit_count)


def _forced_requests(tasks: Sequence[RowTask]) -> dict[int, DraftRequest]:
    """Filled requests, by row id, of the rows whose grammar leaves one way on."""
    requests = {}
    for task in tasks:
        row, count = task.row, min(task.forced, task.row.remaining - 1)
        if row.matcher is not None and count > 0 and not task.prefill:
            drafts = row.matcher.forced_tokens(row.position_after(()).output)[:count]
            if drafts:
                requests[row.id] = DraftRequest(row, len(drafts), drafts, drafter=GRAMMAR)
    return requests


def _draft_requests(drafter: Drafter, tasks: Sequence[RowTask]) -> dict[int, DraftRequest]:
    """Requests by row id; the last token that a row may emit is never a draft."""
    requests = {}
    for task in tasks:
        row, most = task.row, task.row.remaining - 1
        count = max(0, min(task.draft, most, drafter.max_drafts(row)))
        suffix = max(0, min(task.suffix, most))
        if (count or suffix) and not task.prefill:
            requests[row.id] = DraftRequest(row, count, suffix=suffix, drafter=drafter.name)
    return requests


def _verify_span(row: CachedRow, requests: dict[int, DraftRequest]) -> TokenSpan:
    if row.cached != len(row.tokens) - 1:
        raise ProtocolError(f"row {row.id} cannot decode: its prefill is not finished")
    drafts = requests[row.id].drafts if row.id in requests else []
    return TokenSpan(row, row.cached, [row.tokens[-1], *drafts], 1 + len(drafts))


def _accept(
    span: TokenSpan,
    verification: Verification,
    request: DraftRequest | None,
    drafter: Drafter | None,
    eos: frozenset[int],
) -> RowResult:
    """Advance the row by the tokens that `verification` confirms."""
    row, drafted = span.row, 0 if request is None else len(request.drafts)
    if not verification.valid:
        row.done = True
        fault, seconds = verification.fault, _take_mask_seconds(row)
        return RowResult(row.id, (), (), drafted, 0, End.ERROR, fault=fault, mask_seconds=seconds)
    accepted = _roll_back(span, verification, request, drafter)
    kept, end = row.append(verification.tokens[: accepted + 1], eos)
    sampled = verification.sampled[: len(kept)]
    return RowResult(
        id=row.id,
        tokens=tuple(kept),
        logprobs=tuple(choice.logprob for choice in sampled),
        drafted=drafted,
        accepted=min(accepted, len(kept)),
        end=end,
        top=tuple(choice.top for choice in sampled) if row.report.top_n else (),
        prompt_start=span.start + 1 if verification.prompt_logprobs else 0,
        prompt_logprobs=verification.prompt_logprobs,
        prompt_top=verification.prompt_top,
        draft_cached=row.draft_cached if drafter and drafter.keeps_cache else row.cached,
        mask_seconds=_take_mask_seconds(row),
        drafter=request.drafter if request is not None and drafted else "",
    )


def _roll_back(
    span: TokenSpan,
    verification: Verification,
    request: DraftRequest | None,
    drafter: Drafter | None,
) -> int:
    """Count only accepted drafts as cached, and return their number."""
    row, known = span.row, len(span.row.tokens)
    agreeing = _agreeing_count([] if request is None else request.drafts, verification.tokens)
    accepted = min(agreeing, max(verification.usable - 1, 0))
    row.cached = min(span.start + len(span.tokens), known + accepted)
    if request is not None and drafter is not None and request.drafter != GRAMMAR:
        drafter.rollback(request, known, accepted)
    return accepted


def _take_mask_seconds(row: CachedRow) -> float:
    return 0.0 if row.matcher is None else row.matcher.take_seconds()


def _agreeing_count(drafts: Sequence[int], chosen: Sequence[int]) -> int:
    """Number of leading drafts that equal the target's choices."""
    for index, draft in enumerate(drafts):
        if draft != chosen[index]:
            return index
    return len(drafts)
