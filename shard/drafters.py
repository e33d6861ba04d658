"""Who guesses the next tokens. A drafter proposes; only the target's verification decides.

The draft model keeps its own cache under the target's page ids. Its first forward of a round
takes in whatever its cache lacks of a row (one token, two after a full acceptance, a whole gap
after Steps without drafting), so catching up is no special case. Prefill chunks ride on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from shard.model import PackedModel
from shard.sampling import Spot, pick, process
from shard.sequence import Feed, Row


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


class ModelDrafter:
    """Drafts with a small model of the target's vocabulary, coupled to the target's noise.

    `eos` are the target's ends.
    """

    def __init__(self, model: PackedModel, eos: frozenset[int]) -> None:
        self._model, self._eos = model, eos

    def room(self, row: Row) -> int:
        """How many drafts after `row`'s last token still fit this model's context."""
        return max(0, self._model.facts.max_length - len(row.tokens))

    def propose(self, asks: Sequence[Ask], chunks: Sequence[Feed]) -> None:
        """Fill every ask's drafts, and take in `chunks`, the tokens of rows in prefill."""
        active = list(asks)
        feeds = [*self._follow(chunks), *(self._catch_up(ask) for ask in active)]
        while feeds:
            self._choose(active, self._model.logits(feeds))
            active = [ask for ask in active if len(ask.drafts) < ask.count]
            feeds = [self._next(ask) for ask in active]

    def settle(self, ask: Ask, known: int, accepted: int) -> None:
        """Roll back to the accepted drafts after `known` tokens; the last draft was never fed."""
        ask.row.draft_cached = known + min(accepted, ask.count - 1)

    def _follow(self, chunks: Sequence[Feed]) -> list[Feed]:
        """The chunks from where this cache ends, as far as its context reaches."""
        feeds = []
        for chunk in chunks:
            row, stop = chunk.row, chunk.start + len(chunk.tokens)
            if row.draft_cached < stop <= self._model.facts.max_length:
                feeds.append(Feed(row, row.draft_cached, row.tokens[row.draft_cached : stop], 0))
                row.draft_cached = stop
        return feeds

    def _catch_up(self, ask: Ask) -> Feed:
        row = ask.row
        return Feed(row, row.draft_cached, row.tokens[row.draft_cached :], 1)

    def _next(self, ask: Ask) -> Feed:
        start = len(ask.row.tokens) + len(ask.drafts) - 1
        return Feed(ask.row, start, ask.drafts[-1:], 1)

    def _choose(self, active: Sequence[Ask], logits: Tensor) -> None:
        spots = [ask.spot for ask in active]
        if spots:
            tokens = pick(process(logits, spots, self._eos), spots).tolist()
            for ask, token in zip(active, tokens, strict=True):
                ask.drafts.append(token)
