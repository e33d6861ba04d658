"""A round that stays on the device: draft, verify, accept, and advance the rows.

The host says which rows run and how many drafts each may have. Everything else is read from the
device's row table and written back to it, so no forward waits for the host, and the next round may
start before this one's result is read. Every row gets as many lanes as the longest draft needs.
The round emits what `host_round` emits: same rules, same noise, and a draft counts only while it
equals the target's choice.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from shard.model.packed_model import PackedModel
from shard.rounds.device_batch import DeviceBatch, forward_padded
from shard.rounds.device_drafter import DeviceDrafter
from shard.rounds.device_rows import DeviceRowState, DeviceRowTable, SamplingKind
from shard.rounds.device_sampling import DeviceSampler
from shard.rounds.round_result import FLAG_ALIVE, FLAG_FINITE, FLAG_HAS_PAGES, encode_result

_SCORE_BLOCK = 256
"""Maximum number of positions whose scores are held at once."""


class _Verified(NamedTuple):
    """What the target says of every row; a lane is one position that it verified."""

    tokens: Tensor
    """Its choices, int64 [B, lanes]."""
    logprobs: Tensor
    """Of the choices, float32 [B, lanes]."""
    accepted: Tensor
    """Number of leading drafts that equal the choices, int64 [B]."""
    finite: Tensor
    """Whether all logits of a row are finite, bool [B]."""
    has_pages: Tensor
    """Whether a row owned all pages it needed, bool [B]."""


class DeviceRound:
    """Rounds of `target` on the rows of `table`, drafted by `drafter` if there is one."""

    def __init__(
        self, target: PackedModel, drafter: DeviceDrafter | None, table: DeviceRowTable
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
        """Draft up to `drafts` tokens per row, verify and advance; int32 [B, result_width(drafts)].

        `slots_and_drafts`, int64 [2, B], are the rows' slots and the maximum number of drafts of
        each; no row has more than `max_pages` pages. The table is written after the last forward.
        """
        batch = DeviceBatch.read(self._table, slots_and_drafts, kind, max_pages)
        counts = self._draft_counts(batch)
        verified = self._verify(batch, counts, self._propose(batch, counts, drafts))
        after = self._advance(batch, verified)
        self._table.write(batch.slots, after)
        flags = FLAG_ALIVE * (batch.state.alive > 0)
        flags = flags + FLAG_FINITE * verified.finite + FLAG_HAS_PAGES * verified.has_pages
        header = torch.stack((flags, after.token_count, counts, verified.accepted), 1)
        return encode_result(header, verified.tokens, verified.logprobs)

    def _draft_counts(self, batch: DeviceBatch) -> Tensor:
        """Drafts of every row, int64 [B]: one token of what it may emit is the target's own."""
        state = batch.state
        counts = torch.minimum(batch.max_drafts, batch.params.max_tokens - state.token_count - 1)
        if self._drafter is not None:
            counts = torch.minimum(counts, self._drafter.max_drafts(state))
        return torch.where(state.alive > 0, counts.clamp(min=0), 0)

    def _propose(self, batch: DeviceBatch, counts: Tensor, drafts: int) -> Tensor:
        """int64 [B, drafts]."""
        if self._drafter is None or not drafts:
            return batch.state.last_token.new_zeros(len(counts), drafts)
        return self._drafter.propose(batch, counts, drafts)

    def _verify(self, batch: DeviceBatch, counts: Tensor, proposed: Tensor) -> _Verified:
        """One target forward over the last token and the drafts of every row."""
        state = batch.state
        lanes = torch.arange(proposed.shape[1] + 1, device=proposed.device)
        fed = torch.where(state.alive > 0, counts + 1, 0)
        ids = torch.cat((state.last_token[:, None], proposed), 1)
        logits, has_pages = forward_padded(self._target, batch, ids, state.token_count - 1, fed)
        tokens, logprobs = self._choose_all(batch, logits, lanes)
        finite = (logits.amax(-1) < torch.inf).view_as(tokens)  # False for NaN too
        same = (tokens[:, :-1] == proposed) & (lanes[:-1] < counts[:, None])
        accepted = same.long().cumprod(1).sum(1)
        finite = (finite | (lanes >= fed[:, None])).all(1)
        return _Verified(tokens, logprobs, accepted, finite, has_pages)

    def _choose_all(
        self, batch: DeviceBatch, logits: Tensor, lanes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The target's choice in every lane and its log-probability, both [B, lanes]."""
        positions = (batch.state.token_count[:, None] + lanes).flatten()
        params = batch.params.repeated(len(lanes))
        blocks = []
        for start in range(0, len(positions), _SCORE_BLOCK):
            part = slice(start, start + _SCORE_BLOCK)
            scores = self._sampler.process(
                logits[part], params.select(part), positions[part], batch.kind
            )
            tokens = self._sampler.pick(scores, params.select(part), positions[part], batch.kind)
            if batch.kind is not SamplingKind.GREEDY:
                raw = params.raw_logprobs[part, None] > 0
                scores = torch.where(raw, logits[part].float(), scores)
            blocks.append((tokens, scores.log_softmax(-1).gather(1, tokens[:, None])[:, 0]))
        tokens, logprobs = map(torch.cat, zip(*blocks, strict=True))
        return tokens.view(-1, len(lanes)), logprobs.view(-1, len(lanes))

    def _advance(self, batch: DeviceBatch, verified: _Verified) -> DeviceRowState:
        """The rows after their accepted drafts and one more token, cut where they end."""
        state, params, tokens = batch.state, batch.params, verified.tokens
        lanes = torch.arange(tokens.shape[1], device=tokens.device)
        full = state.token_count[:, None] + lanes + 1 >= params.max_tokens[:, None]
        eos = self._sampler.is_eos[tokens] & (params.stops_at_eos[:, None] > 0)
        stops = (full | eos) & (lanes <= verified.accepted[:, None])
        ended = stops.any(1)
        advances = (state.alive > 0) & verified.finite
        kept = torch.where(ended, stops.int().argmax(1), verified.accepted) + 1
        kept = torch.where(advances, kept, 0)
        newest = torch.cat((state.previous_token[:, None], state.last_token[:, None], tokens), 1)
        return DeviceRowState(
            newest.gather(1, kept[:, None])[:, 0],
            newest.gather(1, kept[:, None] + 1)[:, 0],
            state.token_count + kept,
            (advances & ~ended).long(),
        )
