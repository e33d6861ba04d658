"""Drafting with a small model.

The draft model keeps its own cache under the target's page ids. Its first forward of a round takes
in whatever its cache lacks of a row: one token, two after a full acceptance, more after Steps
without drafts. So catching up is no special case. Prefill chunks are part of the same forward. All
rows together catch up by at most `MAX_CATCH_UP_TOKENS` tokens a Step; a row that is not done by
then drafts later. Rows may share pages that the draft has not seen: one of them fills these pages,
the others draft later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from torch import Tensor

from shard.attention.kv_cache import PAGE_SIZE, KvCache
from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.model.packed_model import PackedModel
from shard.rounds.device_drafter import DeviceModelDrafter
from shard.rounds.drafter import Drafter, DraftRequest
from shard.rounds.vocabulary_map import VocabularyMap
from shard.sampling.sampler import process, sample

MAX_CATCH_UP_TOKENS = 512
"""Maximum number of tokens beyond `NORMAL_LAG` per row that one Step feeds to catch up."""
NORMAL_LAG = 2
"""Tokens that a row's first forward of a round takes in if it drafted in the round before."""


class ModelDrafter(Drafter):
    """Drafts with a model whose choices use the target's noise, on the target's token ids."""

    name = "model"

    def __init__(
        self, model: PackedModel, eos: frozenset[int], vocabulary_map: VocabularyMap
    ) -> None:
        """`eos` are the target's; `vocabulary_map` maps between the vocabularies."""
        self.model, self.vocabulary_map = model, vocabulary_map
        self._eos = eos

    @property
    def caches(self) -> Sequence[KvCache]:
        """The model's."""
        return (self.model.cache,)

    @cached_property
    def device_drafter(self) -> DeviceModelDrafter:
        """See `Drafter`."""
        return DeviceModelDrafter(self.model, self.vocabulary_map, self._eos)

    def max_drafts(self, row: CachedRow) -> int:
        """0 after a token outside the draft vocabulary; limited by the model's context."""
        if not self.vocabulary_map.has_token(row.tokens[-1]):
            return 0
        return max(0, self.model.facts.max_length - len(row.tokens))

    def propose(self, requests: Sequence[DraftRequest], prefills: Sequence[TokenSpan]) -> None:
        """Draft token by token, all rows in one forward."""
        active, gap_spans = _catch_up(requests)
        spans = [*self._prefill_spans(prefills), *gap_spans]
        spans += [_uncached_span(request.row) for request in active]
        while spans:
            logits = self.model.logits([self._to_draft_span(span) for span in spans])
            self._append_drafts(active, logits)
            active = [request for request in active if len(request.drafts) < request.count]
            spans = [_last_draft_span(request) for request in active]

    def rollback(self, request: DraftRequest, token_count: int, accepted: int) -> None:
        """Keep the accepted drafts in the cache; the last draft was never fed."""
        if request.drafts:
            request.row.draft_cached = token_count + min(accepted, len(request.drafts) - 1)

    def _prefill_spans(self, prefills: Sequence[TokenSpan]) -> list[TokenSpan]:
        """The chunks that start where this cache ends, within the model's context."""
        spans = []
        for chunk in prefills:
            row, stop = chunk.row, chunk.start + len(chunk.tokens)
            if row.draft_cached == chunk.start and stop <= self.model.facts.max_length:
                spans.append(replace(chunk, logit_count=0))
                row.draft_cached = stop
        return spans

    def _to_draft_span(self, span: TokenSpan) -> TokenSpan:
        return replace(span, tokens=self.vocabulary_map.to_draft(span.tokens))

    def _append_drafts(self, active: Sequence[DraftRequest], logits: Tensor) -> None:
        positions = [request.next_position for request in active]
        if positions:
            scores = process(self.vocabulary_map.to_target(logits), positions, self._eos)
            tokens = sample(scores, positions).tolist()
            for request, token in zip(active, tokens, strict=True):
                request.drafts.append(token)


def _catch_up(requests: Sequence[DraftRequest]) -> tuple[list[DraftRequest], list[TokenSpan]]:
    """The requests whose rows can draft now, and the parts of other rows' gaps to feed."""
    active, spans, budget = [], [], MAX_CATCH_UP_TOKENS
    filling: set[int] = set()
    for request in requests:
        row = request.row
        gap = len(row.tokens) - row.draft_cached - NORMAL_LAG
        if gap > 0 and not _claim_pages(row, filling):
            continue
        if gap <= budget:
            budget -= max(0, gap)
            active.append(request)
        elif budget:
            start, row.draft_cached = row.draft_cached, row.draft_cached + budget
            spans.append(TokenSpan(row, start, row.tokens[start : row.draft_cached], 0))
            budget = 0
    return active, spans


def _claim_pages(row: CachedRow, filling: set[int]) -> bool:
    """Add the pages of the row's gap to `filling`; False if another row fills one of them."""
    pages = row.pages[row.draft_cached // PAGE_SIZE : -(-len(row.tokens) // PAGE_SIZE)]
    free = filling.isdisjoint(pages)
    filling.update(pages)
    return free


def _uncached_span(row: CachedRow) -> TokenSpan:
    return TokenSpan(row, row.draft_cached, row.tokens[row.draft_cached :], 1)


def _last_draft_span(request: DraftRequest) -> TokenSpan:
    start = len(request.row.tokens) + len(request.drafts) - 1
    return TokenSpan(request.row, start, request.drafts[-1:], 1)
