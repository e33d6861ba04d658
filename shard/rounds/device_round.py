"""A round that stays where the models run: draft, verify, accept and move the rows on.

The host says which rows run and how many drafts each may have; all else is read from the device's
row table and written back to it, so no forward waits for the host and the next round may be
started before this one's result is read. Rows are rectangular: everyone gets as many lanes as the
longest draft needs, and lanes without work are led to the trash page. What is emitted is what
`speculative` emits: the same rules, the same noise, and a draft counts only while it equals the
target's choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shard.attention.backends import DeviceLayout, Tables
from shard.attention.kv_cache import PAGE_SIZE
from shard.model.packed_model import PackedModel
from shard.rounds.device_rows import DeviceRows, Kind, Law, State
from shard.rounds.device_sampling import DeviceSampler
from shard.rounds.drafters import ModelDrafter

RAN, SOUND, PAGED = 1, 2, 4
"""Bits of a result's flags: the row was alive; its logits were numbers; it owned its pages."""
_FACTS = 4
_BLOCK = 256
"""Most positions whose scores are held at once."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one round: `slots` and most drafts `asked`, int64 [B]; `pages` int32 [B, P].

    Of a row that is asked for -1 drafts the draft's cache takes in nothing, for it has fallen
    behind, and its pages may be shared with a row whose has not.
    """

    slots: Tensor
    asked: Tensor
    pages: Tensor
    reach: int | None
    """Pages of the longest row, or more; None: all columns."""


@dataclass(frozen=True, slots=True)
class Told:
    """One row's part of a result, on the host."""

    flags: int
    known: int
    """Tokens that the row has now."""
    drafted: int
    accepted: int
    tokens: list[int]
    logprobs: list[float]


def columns(drafts: int) -> int:
    """Width of a result."""
    return _FACTS + 2 * (drafts + 1)


def told(result: Tensor) -> list[Told]:
    """What a result [B, columns] says, row by row."""
    lanes = (result.shape[1] - _FACTS) // 2
    logprobs = result[:, _FACTS + lanes :].contiguous().view(torch.float32).tolist()
    return [
        Told(line[0], line[1], line[2], line[3], line[_FACTS : _FACTS + lanes], values)
        for line, values in zip(result.tolist(), logprobs, strict=True)
    ]


class Resident:
    """Rounds of `target`, drafted by `drafter` if there is one, on the rows of `table`."""

    def __init__(
        self, target: PackedModel, drafter: ModelDrafter | None, table: DeviceRows
    ) -> None:
        facts = target.facts
        self._target, self._drafter, self._table = target, drafter, table
        self._sampler = DeviceSampler(facts.vocab_size, facts.eos, facts.device)

    def round(self, numbers: Tensor, drafts: int, kind: Kind, reach: int | None = None) -> Tensor:
        """Draft up to `drafts` tokens a row, verify, move on. int32 [B, columns(drafts)].

        `numbers`, int64 [2, B], are the rows' slots and the most drafts of each; no row has more
        than `reach` pages. A line holds flags, known, drafted, accepted, then the chosen tokens
        and the bits of their log-probabilities; of those the first `accepted` + 1 count, up to the
        row's end. Nothing is moved on before the last forward is done.
        """
        batch = Batch(numbers[0], numbers[1], self._table.pages[numbers[0]], reach)
        state, law = self._table.read(batch.slots)
        counts = self._counts(batch, state, law)
        guess = self._propose(batch, state, law, counts, drafts, kind)
        lanes = torch.arange(drafts + 1, device=guess.device)
        fed = torch.where(state.alive > 0, counts + 1, 0)
        ids = torch.cat((state.last[:, None], guess), 1)
        logits, paged = _rectangle(self._target, batch, ids, state.known - 1, fed)
        tokens, logs = self._judge(logits, law.repeated(len(lanes)), state, lanes, kind)
        finite = (logits.amax(-1) < torch.inf).view_as(tokens)  # False for NaN too
        sound = (finite | (lanes >= fed[:, None])).all(1)
        same = (tokens[:, :-1] == guess) & (lanes[:-1] < counts[:, None])
        accepted = same.long().cumprod(1).sum(1)
        after = self._moved(state, law, tokens, accepted, sound)
        self._table.write(batch.slots, after)
        flags = RAN * (state.alive > 0) + SOUND * sound + PAGED * paged
        facts = torch.stack((flags, after.known, counts, accepted), 1)
        return torch.cat((facts.int(), tokens.int(), logs.view(torch.int32)), 1)

    def _counts(self, batch: Batch, state: State, law: Law) -> Tensor:
        """Drafts of every row: no more than it may emit beside the bonus token, or can draft."""
        most = torch.minimum(batch.asked, law.limit - state.known - 1)
        if self._drafter is not None:
            _, known = self._drafter.bridge.read(state.last)
            room = self._drafter.model.facts.max_length - state.known
            most = torch.where(known, torch.minimum(most, room), 0)
        return torch.where(state.alive > 0, most.clamp(min=0), 0)

    def _propose(
        self, batch: Batch, state: State, law: Law, counts: Tensor, drafts: int, kind: Kind
    ) -> Tensor:
        """int64 [B, drafts]. The first forward takes in the newest two tokens of every row.

        After a full acceptance the draft's cache lacks the second of them; to write a known
        position again changes nothing.
        """
        guess = state.last.new_zeros(len(counts), drafts)
        if self._drafter is None or not drafts:
            return guess
        model, bridge = self._drafter.model, self._drafter.bridge
        rides = (batch.asked >= 0) & (state.alive > 0) & (state.known <= model.facts.max_length)
        ids = torch.stack((state.before, state.last), 1)
        first, fed = state.known - 2, torch.where(rides, 2, 0)
        for place in range(drafts):
            logits, _ = _rectangle(model, batch, bridge.read(ids)[0], first, fed, newest=True)
            spots = state.known + place
            scores = self._sampler.process(bridge.to_target(logits), law, spots, kind)
            ids = self._sampler.pick(scores, law, spots, kind)[:, None]
            guess[:, place] = ids[:, 0]
            first, fed = spots, torch.where(counts > place + 1, 1, 0)
        return guess

    def _judge(
        self, logits: Tensor, law: Law, state: State, lanes: Tensor, kind: Kind
    ) -> tuple[Tensor, Tensor]:
        """The target's choice in every lane and its log-probability, both [B, lanes]."""
        spots = (state.known[:, None] + lanes).flatten()
        parts = [slice(at, at + _BLOCK) for at in range(0, len(spots), _BLOCK)]
        told = [self._choose(logits[part], law.part(part), spots[part], kind) for part in parts]
        tokens, logs = map(torch.cat, zip(*told, strict=True))
        return tokens.view(-1, len(lanes)), logs.view(-1, len(lanes))

    def _choose(self, logits: Tensor, law: Law, spots: Tensor, kind: Kind) -> tuple[Tensor, Tensor]:
        """Choices at positions `spots` [N] and their log-probabilities [N]; `logits` [N, V]."""
        scores = self._sampler.process(logits, law, spots, kind)
        tokens = self._sampler.pick(scores, law, spots, kind)
        if kind is not Kind.GREEDY:
            scores = torch.where(law.raw[:, None] > 0, logits.float(), scores)
        return tokens, scores.log_softmax(-1).gather(1, tokens[:, None])[:, 0]

    def _moved(
        self, state: State, law: Law, tokens: Tensor, accepted: Tensor, sound: Tensor
    ) -> State:
        """The rows after their accepted drafts and one token more, cut where they end."""
        lanes = torch.arange(tokens.shape[1], device=tokens.device)
        full = state.known[:, None] + lanes + 1 >= law.limit[:, None]
        ends = self._sampler.ends[tokens] & (law.heeds[:, None] > 0)
        stops = (full | ends) & (lanes <= accepted[:, None])
        ended = stops.any(1)
        goes = (state.alive > 0) & sound
        kept = torch.where(ended, stops.int().argmax(1), accepted) + 1
        kept = torch.where(goes, kept, 0)[:, None]
        newest = torch.cat((state.before[:, None], state.last[:, None], tokens), 1)
        before, last = newest.gather(1, kept), newest.gather(1, kept + 1)
        return State(before[:, 0], last[:, 0], state.known + kept[:, 0], (goes & ~ended).long())


def _rectangle(
    model: PackedModel,
    batch: Batch,
    ids: Tensor,
    first: Tensor,
    fed: Tensor,
    newest: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run `ids` [B, W], of which every row feeds the first `fed` from position `first` on.

    Returns logits of all lanes, [B * W, V], or of the `newest` ones, [B, V], and whether each row
    owned pages for what it fed. Lanes that are not fed have logits without meaning.
    """
    rows, width = ids.shape
    lanes = torch.arange(width, device=ids.device)
    real = lanes < fed[:, None]
    positions = torch.where(real, first[:, None] + lanes, 0)
    places = (positions // PAGE_SIZE).clamp(max=batch.pages.shape[1] - 1)
    pages = torch.where(real, batch.pages.gather(1, places), 0)
    slots = pages.long() * PAGE_SIZE + positions % PAGE_SIZE
    starts = torch.arange(0, rows * width, width, device=ids.device)
    spans = torch.stack((starts, fed, torch.where(fed > 0, first + fed, 0))).int()
    tables = Tables(batch.pages[:, : batch.reach], spans, width)
    layout = DeviceLayout(model.cache, slots.flatten(), tables, (), model.tables)
    wanted = starts + width - 1 if newest else torch.arange(rows * width, device=ids.device)
    logits = model.forward(ids.view(1, -1), positions.view(1, -1), layout, wanted)
    return logits, ((pages > 0) | ~real).all(1)
