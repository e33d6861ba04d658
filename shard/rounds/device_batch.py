"""The rows of one device round, and a padded forward over them.

Every row gets the same number of lanes. Lanes without work write to the trash page, and their
logits have no meaning. Nothing here reads a value back to the host.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shard.attention.device_layout import DeviceLayout, PageTables
from shard.attention.kv_cache import PAGE_SIZE
from shard.model.packed_model import PackedModel
from shard.rounds.device_rows import DeviceRowParams, DeviceRowState, DeviceRowTable, SamplingKind


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """The rows of one round as they are when it starts."""

    slots: Tensor
    """Their slots in the row table, int64 [B]."""
    max_drafts: Tensor
    """Maximum number of drafts of each row, int64 [B].

    -1 marks a row whose draft cache has fallen behind. The drafter's cache takes in nothing of
    it, since its pages may be shared with a row that is up to date.
    """
    pages: Tensor
    """Page ids, int32 [B, P]."""
    max_pages: int | None
    """An upper bound for the pages of a row; None: all columns."""
    state: DeviceRowState
    params: DeviceRowParams
    kind: SamplingKind

    @classmethod
    def read(
        cls,
        table: DeviceRowTable,
        slots_and_drafts: Tensor,
        kind: SamplingKind,
        max_pages: int | None,
    ) -> DeviceBatch:
        """The rows of `table` at `slots_and_drafts[0]`; the argument is int64 [2, B]."""
        slots, max_drafts = slots_and_drafts
        return cls(slots, max_drafts, table.pages[slots], max_pages, *table.read(slots), kind)


def forward_padded(
    model: PackedModel,
    batch: DeviceBatch,
    ids: Tensor,
    first_position: Tensor,
    fed_count: Tensor,
    last_only: bool = False,
) -> tuple[Tensor, Tensor]:
    """Feed the first `fed_count` [B] of `ids` [B, W] from position `first_position` [B] on.

    Returns the logits of all lanes, [B * W, V], or with `last_only` of each row's last lane,
    [B, V]; and whether each row owned pages for what it fed, bool [B].
    """
    rows, width = ids.shape
    lanes = torch.arange(width, device=ids.device)
    fed = lanes < fed_count[:, None]
    positions = torch.where(fed, first_position[:, None] + lanes, 0)
    pages = _pages_at(batch, positions, fed)
    slots = pages.long() * PAGE_SIZE + positions % PAGE_SIZE
    starts = torch.arange(0, rows * width, width, device=ids.device)
    lengths = torch.where(fed_count > 0, first_position + fed_count, 0)
    row_offsets = torch.stack((starts, fed_count, lengths)).int()
    tables = PageTables(batch.pages[:, : batch.max_pages], row_offsets, width)
    layout = DeviceLayout(model.cache, slots.flatten(), tables, (), model.paged_backend)
    wanted = starts + width - 1 if last_only else torch.arange(rows * width, device=ids.device)
    logits = model.forward(ids.view(1, -1), positions.view(1, -1), layout, wanted)
    return logits, ((pages > 0) | ~fed).all(1)


def _pages_at(batch: DeviceBatch, positions: Tensor, fed: Tensor) -> Tensor:
    """The page of each of `positions` [B, W]; the trash page where not `fed` or not owned."""
    columns = (positions // PAGE_SIZE).clamp(max=batch.pages.shape[1] - 1)
    return torch.where(fed, batch.pages.gather(1, columns), 0)
