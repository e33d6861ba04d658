"""Attention of many rows with few new tokens each, in one call over copies of keys and values.

It knows segments and slots: no model, no request. With a small model, a call per row costs more
than its computation. So rows with a few new tokens, which are short enough that copying is cheap,
are padded to one length and attended to together. Padding repeats a row's own last slot and is
masked, so that no row sees anything of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from shard.attention.visibility import Visibility

MAX_BATCHED_TOKENS = 16
"""Maximum number of new tokens of a padded row."""
_MAX_COPIED_BYTES = 1 << 17
"""Maximum number of bytes that are copied per row; beyond it a separate call is cheaper."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One row's place in a packed Step: tokens `start:stop`, and the slots they attend to.

    `spans` cover `length` tokens: what was cached before and the segment's own tokens last.
    """

    start: int
    stop: int
    length: int
    spans: tuple[slice, ...]

    @property
    def count(self) -> int:
        """Number of new tokens."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """Rows of a packed Step that are attended to together."""

    rows: int
    slots: Tensor
    """Slots of all keys, int64 [R * L]; a row with fewer than L repeats its last one."""
    mask: Tensor
    """Additive [R, 1, W * group, L]."""
    lanes: Tensor | None
    """The token of every lane, int64 [R * W]; a row with fewer than W repeats its last one.

    None if these are all tokens of the Step in order.
    """

    @classmethod
    def from_segments(
        cls, segments: Sequence[Segment], visibility: Visibility, group: int, query: Tensor
    ) -> PaddedRows:
        """The padded rows of `segments`; `query` [T, H, D] has `group` heads per key head."""
        width = max(part.count for part in segments)
        lanes = torch.tensor([_padded(range(part.start, part.stop), width) for part in segments])
        ends = torch.tensor([part.length - part.stop for part in segments])
        positions = lanes + ends[:, None]  # within each row
        seen = torch.arange(max(part.length for part in segments))
        hidden = visibility.hides(positions[..., None], seen)
        mask = torch.zeros(hidden.shape, dtype=query.dtype).masked_fill_(hidden, -torch.inf)
        mask = mask.repeat_interleave(group, 1)[:, None]
        flat = lanes.flatten()
        whole = len(flat) == len(query) and all(part.count == width for part in segments)
        return cls(len(segments), _slots(segments), mask, None if whole else flat)

    def attend(self, query: Tensor, pool: Tensor, scale: float, out: Tensor) -> None:
        """Fill these rows' part of `out` [T, H, D]; `query` [T, H, D] is that of the whole Step.

        `pool` [slots, 2 * Hkv, D] holds keys before values.
        """
        length, dim = self.mask.shape[-1], pool.shape[-1]
        both = pool.index_select(0, self.slots).view(self.rows, length, 2, -1, dim)
        keys, values = both.permute(2, 0, 3, 1, 4).unbind()  # [R, Hkv, L, D] each
        queries = query if self.lanes is None else query.index_select(0, self.lanes)
        lanes = queries.view(self.rows, -1, keys.shape[1], query.shape[1] // keys.shape[1], dim)
        by_head = lanes.transpose(1, 2)
        folded = by_head.reshape(self.rows, keys.shape[1], -1, dim)
        attended = scaled_dot_product_attention(
            folded, keys, values, attn_mask=self.mask, scale=scale
        )
        attended = attended.view(by_head.shape).transpose(1, 2)
        if self.lanes is None:
            out.view(lanes.shape).copy_(attended)
        else:
            out.index_copy_(0, self.lanes, attended.reshape(queries.shape))


def fits_padded_batch(segment: Segment, slot_bytes: int) -> bool:
    """Whether padding is cheaper for `segment`, where a slot has `slot_bytes` bytes."""
    return segment.count <= MAX_BATCHED_TOKENS and segment.length * slot_bytes <= _MAX_COPIED_BYTES


def _slots(segments: Sequence[Segment]) -> Tensor:
    length = max(part.length for part in segments)
    slots = np.empty((len(segments), length), np.int64)
    for row, part in zip(slots, segments, strict=True):
        at = 0
        for span in part.spans:
            stop = at + span.stop - span.start
            row[at:stop] = np.arange(span.start, span.stop)
            at = stop
        row[at:] = row[at - 1]
    return torch.from_numpy(slots).flatten()


def _padded(tokens: range, width: int) -> list[int]:
    return [*tokens, *[tokens[-1]] * (width - len(tokens))]
