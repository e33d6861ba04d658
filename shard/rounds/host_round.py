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

from shard.batch.packing import Feed
from shard.batch.rows import Row
from shard.model.packed_model import PackedModel
from shard.rounds.drafters import Ask, Drafter
from shard.rounds.verify import Verdict, judge, reported
from shard.wire.protocol import End, Item, ProtocolError


@dataclass(frozen=True, slots=True)
class Work:
    """What a Step asks of one live row: `prefill` known tokens, or 0 and at most `draft`."""

    row: Row
    prefill: int
    draft: int


def run(target: PackedModel, drafter: Drafter | None, works: Sequence[Work]) -> tuple[Item, ...]:
    """Do every work in one round and return its items in order.

    Raises ProtocolError for work that does not fit its row.
    """
    chunks = [_chunk(work) for work in works if work.prefill]
    asks = {} if drafter is None else _asks(drafter, works)
    if drafter is not None:
        drafter.propose(list(asks.values()), chunks)
    feeds = [*chunks, *(_verify_feed(work.row, asks) for work in works if not work.prefill)]
    if not feeds:
        return ()
    eos = target.facts.eos
    drafts = [asks[feed.row.id].drafts if feed.row.id in asks else () for feed in feeds]
    verdicts = judge(target.logits(feeds), feeds, drafts, eos)
    items = [
        _accept(feed, verdict, asks.get(feed.row.id), drafter, eos)
        for feed, verdict in zip(feeds, verdicts, strict=True)
    ]
    return tuple(items)


def _chunk(work: Work) -> Feed:
    row, stop = work.row, work.row.cached + work.prefill
    if stop > len(row.tokens):
        raise ProtocolError(f"row {row.id} has no {stop} tokens to prefill")
    whole = reported(row, row.cached, stop)
    wanted = work.prefill if whole else int(stop == len(row.tokens))
    return Feed(row, row.cached, row.tokens[row.cached : stop], wanted)


def _asks(drafter: Drafter, works: Sequence[Work]) -> dict[int, Ask]:
    """Drafts wanted by row, never more than the row may still emit beside the bonus token."""
    asks = {}
    for work in works:
        count = min(work.draft, work.row.remaining - 1, drafter.room(work.row))
        if count > 0 and not work.prefill:
            asks[work.row.id] = Ask(work.row, count)
    return asks


def _verify_feed(row: Row, asks: dict[int, Ask]) -> Feed:
    if row.cached != len(row.tokens) - 1:
        raise ProtocolError(f"row {row.id} cannot decode: its prefill is not finished")
    drafts = asks[row.id].drafts if row.id in asks else []
    return Feed(row, row.cached, [row.tokens[-1], *drafts], 1 + len(drafts))


def _accept(
    feed: Feed,
    verdict: Verdict,
    ask: Ask | None,
    drafter: Drafter | None,
    eos: frozenset[int],
) -> Item:
    """Move the row on by what `verdict` confirms."""
    row, known = feed.row, len(feed.row.tokens)
    drafts = [] if ask is None else ask.drafts
    if not verdict.sound:
        row.done = True
        return Item(row.id, (), (), len(drafts), 0, End.ERROR)
    accepted = _agreement(drafts, verdict.tokens)
    row.cached = min(feed.start + len(feed.tokens), known + accepted)
    if ask is not None and drafter is not None:
        drafter.settle(ask, known, accepted)
    kept, end = row.append(verdict.tokens[: accepted + 1], eos)
    told = verdict.choices[: len(kept)]
    return Item(
        id=row.id,
        tokens=tuple(kept),
        logprobs=tuple(choice.logprob for choice in told),
        drafted=len(drafts),
        accepted=min(accepted, len(kept)),
        end=end,
        top=tuple(choice.top for choice in told) if row.report.top_n else (),
        prompt_start=feed.start + 1 if verdict.prompt else 0,
        prompt_logprobs=verdict.prompt,
        prompt_top=verdict.prompt_top,
        draft_cached=row.draft_cached if drafter is not None and drafter.caches else row.cached,
    )


def _agreement(drafts: Sequence[int], choices: Sequence[int]) -> int:
    """How many leading drafts equal the target's choices."""
    for index, draft in enumerate(drafts):
        if draft != choices[index]:
            return index
    return len(drafts)
