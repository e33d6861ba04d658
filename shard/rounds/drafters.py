"""Who guesses the next tokens. A drafter proposes; only the target's verification decides.

The draft model keeps its own cache under the target's page ids. Its first forward of a round
takes in whatever its cache lacks of a row (one token, two after a full acceptance, a gap after
Steps without drafting), so catching up is no special case. Prefill chunks ride on it. All gaps
together are closed at `CATCH_UP` tokens a Step: a row that is not done by then drafts later. A row
that starts with pages which no draft has seen has such a gap, and so has whoever shares them: one
of them fills them, the others draft later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from shard.attention.kv_cache import PAGE_SIZE, KvCache
from shard.batch.packing import Feed
from shard.batch.rows import Row
from shard.model.packed_model import PackedModel
from shard.rounds.vocabulary_map import Bridge
from shard.sampling.sampler import Spot, pick, process

CATCH_UP = 512
"""Most tokens beyond the ordinary two that one Step feeds to close gaps."""
ORDINARY = 2
"""Tokens that a row's first forward of a round takes in when it drafted in the round before."""


@dataclass(slots=True)
class Ask:
    """`count` drafts wanted after `row`'s last token; `drafts` fills up to as many."""

    row: Row
    count: int
    drafts: list[int] = field(default_factory=list)

    @property
    def spot(self) -> Spot:
        """The position of the next draft."""
        return self.row.spot(tuple(self.drafts))


class Drafter(Protocol):
    """Proposes tokens. Ranks with equal rows must propose alike; nothing else is promised."""

    @property
    def source(self) -> str:
        """Its name in metrics."""

    @property
    def caches(self) -> Sequence[KvCache]:
        """What it keeps under the target's page ids; a row's `draft_cached` counts in it."""

    def room(self, row: Row) -> int:
        """How many drafts after `row`'s last token this drafter could propose at most."""

    def propose(self, asks: Sequence[Ask], chunks: Sequence[Feed]) -> None:
        """Fill every ask with 0 to `count` drafts; `chunks` are the tokens of rows in prefill."""

    def settle(self, ask: Ask, known: int, accepted: int) -> None:
        """Of `ask`'s drafts after `known` tokens the first `accepted` were confirmed."""


class ModelDrafter:
    """Drafts with a small model, coupled to the target's noise through the target's ids."""

    source = "model"

    def __init__(self, model: PackedModel, eos: frozenset[int], bridge: Bridge) -> None:
        """`eos` are the target's ends; `bridge` leads to its vocabulary from that of `model`."""
        self.model, self.bridge = model, bridge
        self._eos = eos

    @property
    def caches(self) -> Sequence[KvCache]:
        """Its model's."""
        return (self.model.cache,)

    def room(self, row: Row) -> int:
        """None after a token that the draft has no word for, and none beyond its context."""
        if not self.bridge.knows(row.tokens[-1]):
            return 0
        return max(0, self.model.facts.max_length - len(row.tokens))

    def propose(self, asks: Sequence[Ask], chunks: Sequence[Feed]) -> None:
        """Draft token by token, all rows in one forward."""
        active, gaps = _caught_up(asks)
        feeds = [*self._follow(chunks), *gaps, *(_unseen(ask.row) for ask in active)]
        while feeds:
            self._choose(active, self.model.logits([self._translated(feed) for feed in feeds]))
            active = [ask for ask in active if len(ask.drafts) < ask.count]
            feeds = [_newest(ask) for ask in active]

    def settle(self, ask: Ask, known: int, accepted: int) -> None:
        """Roll back to the accepted drafts; the last draft was never fed."""
        if ask.drafts:
            ask.row.draft_cached = known + min(accepted, len(ask.drafts) - 1)

    def _follow(self, chunks: Sequence[Feed]) -> list[Feed]:
        """The chunks that go on where this cache ends, as far as its context reaches."""
        feeds = []
        for chunk in chunks:
            row, stop = chunk.row, chunk.start + len(chunk.tokens)
            if row.draft_cached == chunk.start and stop <= self.model.facts.max_length:
                feeds.append(replace(chunk, logits=0))
                row.draft_cached = stop
        return feeds

    def _translated(self, feed: Feed) -> Feed:
        return replace(feed, tokens=self.bridge.to_draft(feed.tokens))

    def _choose(self, active: Sequence[Ask], logits: Tensor) -> None:
        spots = [ask.spot for ask in active]
        if spots:
            scores = process(self.bridge.to_target(logits), spots, self._eos)
            tokens = pick(scores, spots).tolist()
            for ask, token in zip(active, tokens, strict=True):
                ask.drafts.append(token)


def _caught_up(asks: Sequence[Ask]) -> tuple[list[Ask], list[Feed]]:
    """The asks whose rows can draft now, and what is fed of the others' gaps."""
    active, gaps, left = [], [], CATCH_UP
    filling: set[int] = set()
    for ask in asks:
        row = ask.row
        gap = len(row.tokens) - row.draft_cached - ORDINARY
        if gap > 0 and not _claim(row, filling):
            continue
        if gap <= left:
            left -= max(0, gap)
            active.append(ask)
        elif left:
            start, row.draft_cached = row.draft_cached, row.draft_cached + left
            gaps.append(Feed(row, start, row.tokens[start : row.draft_cached], 0))
            left = 0
    return active, gaps


def _claim(row: Row, filling: set[int]) -> bool:
    """Add the pages of the row's gap to `filling`, unless another row is filling one of them."""
    pages = row.pages[row.draft_cached // PAGE_SIZE : -(-len(row.tokens) // PAGE_SIZE)]
    free = filling.isdisjoint(pages)
    filling.update(pages)
    return free


def _unseen(row: Row) -> Feed:
    return Feed(row, row.draft_cached, row.tokens[row.draft_cached :], 1)


def _newest(ask: Ask) -> Feed:
    start = len(ask.row.tokens) + len(ask.drafts) - 1
    return Feed(ask.row, start, ask.drafts[-1:], 1)
