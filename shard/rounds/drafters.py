"""Who guesses the next tokens. A drafter proposes; only the target's verification decides.

The draft model keeps its own cache under the target's page ids. Its first forward of a round
takes in whatever its cache lacks of a row (one token, two after a full acceptance, a gap after
Steps without drafting), so catching up is no special case. Prefill chunks ride on it. All gaps
together are closed at `MAX_CATCH_UP_TOKENS` tokens a Step: a row that is not done by then drafts
later. A row that starts with pages which no draft has seen has such a gap, and so has whoever
shares them: one of them fills them, the others draft later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from shard.attention.kv_cache import PAGE_SIZE, KvCache
from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.model.packed_model import PackedModel
from shard.rounds.vocabulary_map import VocabularyMap
from shard.sampling.sampler import Position, process, sample

MAX_CATCH_UP_TOKENS = 512
"""Most tokens beyond the ordinary two that one Step feeds to close gaps."""
NORMAL_LAG = 2
"""Tokens that a row's first forward of a round takes in when it drafted in the round before."""


@dataclass(slots=True)
class DraftRequest:
    """`count` drafts wanted after `row`'s last token; `drafts` fills up to as many."""

    row: CachedRow
    count: int
    drafts: list[int] = field(default_factory=list)

    @property
    def next_position(self) -> Position:
        """The position of the next draft."""
        return self.row.position_after(tuple(self.drafts))


class Drafter(Protocol):
    """Proposes tokens. Ranks with equal rows must propose alike; nothing else is promised."""

    @property
    def name(self) -> str:
        """Its name in metrics."""

    @property
    def caches(self) -> Sequence[KvCache]:
        """What it keeps under the target's page ids; a row's `draft_cached` counts in it."""

    def max_drafts(self, row: CachedRow) -> int:
        """How many drafts after `row`'s last token this drafter could propose at most."""

    def propose(self, requests: Sequence[DraftRequest], prefills: Sequence[TokenSpan]) -> None:
        """Fill every ask with 0 to `count` drafts; `chunks` are the tokens of rows in prefill."""

    def rollback(self, request: DraftRequest, token_count: int, accepted: int) -> None:
        """Of `ask`'s drafts after `known` tokens the first `accepted` were confirmed."""


class ModelDrafter:
    """Drafts with a small model, coupled to the target's noise through the target's ids."""

    name = "model"

    def __init__(
        self, model: PackedModel, eos: frozenset[int], vocabulary_map: VocabularyMap
    ) -> None:
        """`eos` are the target's ends; `bridge` leads to its vocabulary from that of `model`."""
        self.model, self.vocabulary_map = model, vocabulary_map
        self._eos = eos

    @property
    def caches(self) -> Sequence[KvCache]:
        """Its model's."""
        return (self.model.cache,)

    def max_drafts(self, row: CachedRow) -> int:
        """None after a token that the draft has no word for, and none beyond its context."""
        if not self.vocabulary_map.has_token(row.tokens[-1]):
            return 0
        return max(0, self.model.facts.max_length - len(row.tokens))

    def propose(self, requests: Sequence[DraftRequest], prefills: Sequence[TokenSpan]) -> None:
        """Draft token by token, all rows in one forward."""
        active, gaps = _catch_up(requests)
        feeds = [
            *self._prefill_spans(prefills),
            *gaps,
            *(_uncached_span(ask.row) for ask in active),
        ]
        while feeds:
            self._append_drafts(
                active, self.model.logits([self._to_draft_span(feed) for feed in feeds])
            )
            active = [ask for ask in active if len(ask.drafts) < ask.count]
            feeds = [_last_draft_span(ask) for ask in active]

    def rollback(self, request: DraftRequest, token_count: int, accepted: int) -> None:
        """Roll back to the accepted drafts; the last draft was never fed."""
        if request.drafts:
            request.row.draft_cached = token_count + min(accepted, len(request.drafts) - 1)

    def _prefill_spans(self, prefills: Sequence[TokenSpan]) -> list[TokenSpan]:
        """The chunks that go on where this cache ends, as far as its context reaches."""
        feeds = []
        for chunk in prefills:
            row, stop = chunk.row, chunk.start + len(chunk.tokens)
            if row.draft_cached == chunk.start and stop <= self.model.facts.max_length:
                feeds.append(replace(chunk, logit_count=0))
                row.draft_cached = stop
        return feeds

    def _to_draft_span(self, feed: TokenSpan) -> TokenSpan:
        return replace(feed, tokens=self.vocabulary_map.to_draft(feed.tokens))

    def _append_drafts(self, active: Sequence[DraftRequest], logits: Tensor) -> None:
        spots = [ask.next_position for ask in active]
        if spots:
            scores = process(self.vocabulary_map.to_target(logits), spots, self._eos)
            tokens = sample(scores, spots).tolist()
            for ask, token in zip(active, tokens, strict=True):
                ask.drafts.append(token)


def _catch_up(requests: Sequence[DraftRequest]) -> tuple[list[DraftRequest], list[TokenSpan]]:
    """The asks whose rows can draft now, and what is fed of the others' gaps."""
    active, gaps, left = [], [], MAX_CATCH_UP_TOKENS
    filling: set[int] = set()
    for ask in requests:
        row = ask.row
        gap = len(row.tokens) - row.draft_cached - NORMAL_LAG
        if gap > 0 and not _claim_pages(row, filling):
            continue
        if gap <= left:
            left -= max(0, gap)
            active.append(ask)
        elif left:
            start, row.draft_cached = row.draft_cached, row.draft_cached + left
            gaps.append(TokenSpan(row, start, row.tokens[start : row.draft_cached], 0))
            left = 0
    return active, gaps


def _claim_pages(row: CachedRow, filling: set[int]) -> bool:
    """Add the pages of the row's gap to `filling`, unless another row is filling one of them."""
    pages = row.pages[row.draft_cached // PAGE_SIZE : -(-len(row.tokens) // PAGE_SIZE)]
    free = filling.isdisjoint(pages)
    filling.update(pages)
    return free


def _uncached_span(row: CachedRow) -> TokenSpan:
    return TokenSpan(row, row.draft_cached, row.tokens[row.draft_cached :], 1)


def _last_draft_span(request: DraftRequest) -> TokenSpan:
    start = len(request.row.tokens) + len(request.drafts) - 1
    return TokenSpan(request.row, start, request.drafts[-1:], 1)
