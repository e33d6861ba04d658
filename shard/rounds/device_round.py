"""A round that stays where the models run: draft, verify, accept and move the rows on.

The host says which rows run and how many drafts each may have; all else is read from the device's
row table and written back to it, so no forward waits for the host and the next round may be
started before this one's result is read. Rows are rectangular: everyone gets as many lanes as the
longest draft needs, and lanes without work are led to the trash page. What is emitted is what
`host_round` emits: the same rules, the same noise, and a draft counts only while it equals the
target's choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shard.attention.backends import DeviceLayout, PageTables
from shard.attention.kv_cache import PAGE_SIZE
from shard.model.packed_model import PackedModel
from shard.rounds.device_rows import DeviceRowParams, DeviceRowState, DeviceRowTable, SamplingKind
from shard.rounds.device_sampling import DeviceSampler
from shard.rounds.drafters import ModelDrafter

FLAG_ALIVE, FLAG_FINITE, FLAG_HAS_PAGES = 1, 2, 4
"""Bits of a result's flags: the row was alive; its logits were numbers; it owned its pages."""
_HEADER_COLUMNS = 4
_SCORE_BLOCK = 256
"""Most positions whose scores are held at once."""


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """The rows of one round: `slots` and most drafts `asked`, int64 [B]; `pages` int32 [B, P].

    Of a row that is asked for -1 drafts the draft's cache takes in nothing, for it has fallen
    behind, and its pages may be shared with a row whose has not.
    """

    slots: Tensor
    max_drafts: Tensor
    pages: Tensor
    max_pages: int | None
    """Pages of the longest row, or more; None: all columns."""


@dataclass(frozen=True, slots=True)
class RoundResult:
    """One row's part of a result, on the host."""

    flags: int
    token_count: int
    """Tokens that the row has now."""
    drafted: int
    accepted: int
    tokens: list[int]
    logprobs: list[float]


def result_width(drafts: int) -> int:
    """Width of a result."""
    return _HEADER_COLUMNS + 2 * (drafts + 1)


def decode_result(result: Tensor) -> list[RoundResult]:
    """What a result [B, columns] says, row by row."""
    lanes = (result.shape[1] - _HEADER_COLUMNS) // 2
    logprobs = result[:, _HEADER_COLUMNS + lanes :].contiguous().view(torch.float32).tolist()
    return [
        RoundResult(
            line[0],
            line[1],
            line[2],
            line[3],
            line[_HEADER_COLUMNS : _HEADER_COLUMNS + lanes],
            values,
        )
        for line, values in zip(result.tolist(), logprobs, strict=True)
    ]


class DeviceRound:
    """Rounds of `target`, drafted by `drafter` if there is one, on the rows of `table`."""

    def __init__(
        self, target: PackedModel, drafter: ModelDrafter | None, table: DeviceRowTable
    ) -> None:
        facts = target.facts
        self._target, self._drafter, self._table = target, drafter, table
        self._sampler = DeviceSampler(facts.vocab_size, facts.eos, facts.device)

    def run(
        self,
        slots_and_drafts: Tensor,
        drafts: int,
        kind: SamplingKind,
        max_pages: int | None = None,
    ) -> Tensor:
        """Draft up to `drafts` tokens a row, verify, move on. int32 [B, columns(drafts)].

        `numbers`, int64 [2, B], are the rows' slots and the most drafts of each; no row has more
        than `reach` pages. A line holds flags, known, drafted, accepted, then the chosen tokens
        and the bits of their log-probabilities; of those the first `accepted` + 1 count, up to the
        row's end. Nothing is moved on before the last forward is done.
        """
        batch = DeviceBatch(
            slots_and_drafts[0],
            slots_and_drafts[1],
            self._table.pages[slots_and_drafts[0]],
            max_pages,
        )
        state, law = self._table.read(batch.slots)
        counts = self._draft_counts(batch, state, law)
        guess = self._propose(batch, state, law, counts, drafts, kind)
        lanes = torch.arange(drafts + 1, device=guess.device)
        fed = torch.where(state.alive > 0, counts + 1, 0)
        ids = torch.cat((state.last_token[:, None], guess), 1)
        logits, paged = _forward_padded(self._target, batch, ids, state.token_count - 1, fed)
        tokens, logs = self._choose_all(logits, law.repeated(len(lanes)), state, lanes, kind)
        finite = (logits.amax(-1) < torch.inf).view_as(tokens)  # False for NaN too
        sound = (finite | (lanes >= fed[:, None])).all(1)
        same = (tokens[:, :-1] == guess) & (lanes[:-1] < counts[:, None])
        accepted = same.long().cumprod(1).sum(1)
        after = self._advance(state, law, tokens, accepted, sound)
        self._table.write(batch.slots, after)
        flags = FLAG_ALIVE * (state.alive > 0) + FLAG_FINITE * sound + FLAG_HAS_PAGES * paged
        facts = torch.stack((flags, after.token_count, counts, accepted), 1)
        return torch.cat((facts.int(), tokens.int(), logs.view(torch.int32)), 1)

    def _draft_counts(
        self, batch: DeviceBatch, state: DeviceRowState, params: DeviceRowParams
    ) -> Tensor:
        """Drafts of every row: no more than it may emit beside the bonus token, or can draft."""
        most = torch.minimum(batch.max_drafts, params.max_tokens - state.token_count - 1)
        if self._drafter is not None:
            _, known = self._drafter.vocabulary_map.map_tokens(state.last_token)
            room = self._drafter.model.facts.max_length - state.token_count
            most = torch.where(known, torch.minimum(most, room), 0)
        return torch.where(state.alive > 0, most.clamp(min=0), 0)

    def _propose(
        self,
        batch: DeviceBatch,
        state: DeviceRowState,
        params: DeviceRowParams,
        counts: Tensor,
        drafts: int,
        kind: SamplingKind,
    ) -> Tensor:
        """int64 [B, drafts]. The first forward takes in the newest two tokens of every row.

        After a full acceptance the draft's cache lacks the second of them; to write a known
        position again changes nothing.
        """
        guess = state.last_token.new_zeros(len(counts), drafts)
        if self._drafter is None or not drafts:
            return guess
        model, bridge = self._drafter.model, self._drafter.vocabulary_map
        rides = (
            (batch.max_drafts >= 0)
            & (state.alive > 0)
            & (state.token_count <= model.facts.max_length)
        )
        ids = torch.stack((state.previous_token, state.last_token), 1)
        first, fed = state.token_count - 2, torch.where(rides, 2, 0)
        for place in range(drafts):
            logits, _ = _forward_padded(
                model, batch, bridge.map_tokens(ids)[0], first, fed, last_only=True
            )
            spots = state.token_count + place
            scores = self._sampler.process(bridge.to_target(logits), params, spots, kind)
            ids = self._sampler.pick(scores, params, spots, kind)[:, None]
            guess[:, place] = ids[:, 0]
            first, fed = spots, torch.where(counts > place + 1, 1, 0)
        return guess

    def _choose_all(
        self,
        logits: Tensor,
        params: DeviceRowParams,
        state: DeviceRowState,
        lanes: Tensor,
        kind: SamplingKind,
    ) -> tuple[Tensor, Tensor]:
        """The target's choice in every lane and its log-probability, both [B, lanes]."""
        spots = (state.token_count[:, None] + lanes).flatten()
        parts = [slice(at, at + _SCORE_BLOCK) for at in range(0, len(spots), _SCORE_BLOCK)]
        told = [
            self._choose_block(logits[part], params.select(part), spots[part], kind)
            for part in parts
        ]
        tokens, logs = map(torch.cat, zip(*told, strict=True))
        return tokens.view(-1, len(lanes)), logs.view(-1, len(lanes))

    def _choose_block(
        self, logits: Tensor, params: DeviceRowParams, spots: Tensor, kind: SamplingKind
    ) -> tuple[Tensor, Tensor]:
        """Choices at positions `spots` [N] and their log-probabilities [N]; `logits` [N, V]."""
        scores = self._sampler.process(logits, params, spots, kind)
        tokens = self._sampler.pick(scores, params, spots, kind)
        if kind is not SamplingKind.GREEDY:
            scores = torch.where(params.raw_logprobs[:, None] > 0, logits.float(), scores)
        return tokens, scores.log_softmax(-1).gather(1, tokens[:, None])[:, 0]

    def _advance(
        self,
        state: DeviceRowState,
        params: DeviceRowParams,
        tokens: Tensor,
        accepted: Tensor,
        sound: Tensor,
    ) -> DeviceRowState:
        """The rows after their accepted drafts and one token more, cut where they end."""
        lanes = torch.arange(tokens.shape[1], device=tokens.device)
        full = state.token_count[:, None] + lanes + 1 >= params.max_tokens[:, None]
        ends = self._sampler.is_eos[tokens] & (params.stops_at_eos[:, None] > 0)
        stops = (full | ends) & (lanes <= accepted[:, None])
        ended = stops.any(1)
        goes = (state.alive > 0) & sound
        kept = torch.where(ended, stops.int().argmax(1), accepted) + 1
        kept = torch.where(goes, kept, 0)[:, None]
        newest = torch.cat((state.previous_token[:, None], state.last_token[:, None], tokens), 1)
        before, last = newest.gather(1, kept), newest.gather(1, kept + 1)
        return DeviceRowState(
            before[:, 0], last[:, 0], state.token_count + kept[:, 0], (goes & ~ended).long()
        )


def _forward_padded(
    model: PackedModel,
    batch: DeviceBatch,
    ids: Tensor,
    first_position: Tensor,
    fed_count: Tensor,
    last_only: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run `ids` [B, W], of which every row feeds the first `fed` from position `first` on.

    Returns logits of all lanes, [B * W, V], or of the `newest` ones, [B, V], and whether each row
    owned pages for what it fed. Lanes that are not fed have logits without meaning.
    """
    rows, width = ids.shape
    lanes = torch.arange(width, device=ids.device)
    real = lanes < fed_count[:, None]
    positions = torch.where(real, first_position[:, None] + lanes, 0)
    places = (positions // PAGE_SIZE).clamp(max=batch.pages.shape[1] - 1)
    pages = torch.where(real, batch.pages.gather(1, places), 0)
    slots = pages.long() * PAGE_SIZE + positions % PAGE_SIZE
    starts = torch.arange(0, rows * width, width, device=ids.device)
    spans = torch.stack(
        (starts, fed_count, torch.where(fed_count > 0, first_position + fed_count, 0))
    ).int()
    tables = PageTables(batch.pages[:, : batch.max_pages], spans, width)
    layout = DeviceLayout(model.cache, slots.flatten(), tables, (), model.paged_backend)
    wanted = starts + width - 1 if last_only else torch.arange(rows * width, device=ids.device)
    logits = model.forward(ids.view(1, -1), positions.view(1, -1), layout, wanted)
    return logits, ((pages > 0) | ~real).all(1)
