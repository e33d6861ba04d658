"""How a drafter proposes within a round that stays on the device.

`DeviceDrafter` is what `device_round` needs of a drafter; `DeviceModelDrafter` is the draft
model's. Neither may read a value back to the host.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from shard.model.packed_model import PackedModel
from shard.rounds.device_batch import DeviceBatch, forward_padded
from shard.rounds.device_rows import DeviceRowState
from shard.rounds.device_sampling import DeviceSampler
from shard.rounds.vocabulary_map import VocabularyMap


class DeviceDrafter(Protocol):
    """A drafter that proposes tokens without the host reading any value."""

    name: ClassVar[str]
    """That of the drafter on the host."""

    @property
    def max_length(self) -> int:
        """Tokens of a row beyond which it neither drafts nor caches."""

    def max_drafts(self, state: DeviceRowState) -> Tensor:
        """The maximum number of drafts that each row can get, int64 [B]; may be negative."""

    def propose(self, batch: DeviceBatch, counts: Tensor, drafts: int) -> Tensor:
        """Target token ids, int64 [B, drafts]; of row b the first `counts[b]` are used.

        Rows for which `batch.max_drafts` is -1 must leave no trace in any cache.
        """


class DeviceModelDrafter:
    """The draft model's: token by token, coupled to the target's noise."""

    name: ClassVar[str] = "model"

    def __init__(
        self, model: PackedModel, vocabulary_map: VocabularyMap, eos: Collection[int]
    ) -> None:
        self._model, self._vocabulary_map = model, vocabulary_map
        self._sampler = DeviceSampler(vocabulary_map.target_size, eos, model.facts.device)

    @property
    def max_length(self) -> int:
        """The model's context."""
        return self._model.facts.max_length

    def max_drafts(self, state: DeviceRowState) -> Tensor:
        """0 after a token outside the draft vocabulary; limited by the model's context."""
        _, known = self._vocabulary_map.map_tokens(state.last_token)
        return torch.where(known, self.max_length - state.token_count, 0)

    def propose(self, batch: DeviceBatch, counts: Tensor, drafts: int) -> Tensor:
        """See `DeviceDrafter`. The first forward takes in the newest two tokens of every row.

        After a full acceptance the cache lacks the second of them; writing a known position again
        changes nothing.
        """
        state = batch.state
        proposed = state.last_token.new_zeros(len(counts), drafts)
        up_to_date = (batch.max_drafts >= 0) & (state.alive > 0)
        up_to_date &= state.token_count <= self.max_length
        ids = torch.stack((state.previous_token, state.last_token), 1)
        first, fed = state.token_count - 2, torch.where(up_to_date, 2, 0)
        for index in range(drafts):
            position = state.token_count + index
            proposed[:, index] = self._draft_token(batch, ids, first, fed, position)
            ids = proposed[:, index, None]
            first, fed = position, torch.where(counts > index + 1, 1, 0)
        return proposed

    def _draft_token(
        self, batch: DeviceBatch, ids: Tensor, first: Tensor, fed: Tensor, position: Tensor
    ) -> Tensor:
        """Feed `ids` [B, W] and choose the tokens at `position` [B], int64 [B]."""
        own_ids, _ = self._vocabulary_map.map_tokens(ids)
        logits, _ = forward_padded(self._model, batch, own_ids, first, fed, last_only=True)
        scores = self._sampler.process(
            self._vocabulary_map.to_target(logits), batch.params, position, batch.kind
        )
        return self._sampler.pick(scores, batch.params, position, batch.kind)
