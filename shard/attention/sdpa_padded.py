"""Attention of many rows with few tokens each, in one call over copies of their keys and values.

It knows segments and slots: no model, no request. Row by row, what a small model computes is less
than what the calls cost. So rows that feed a few tokens each, and are short enough that copying
is cheap, are padded to one length and attended to together. Padding repeats a row's own last slot
and is masked, so that no row sees anything of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

MAX_BATCHED_TOKENS = 16
"""Most tokens that a row of a crowd feeds."""
_MAX_COPIED_BYTES = 1 << 17
"""Most bytes of keys and values that are copied per row: more is dearer than a call of its own."""


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
        """Its own tokens."""
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """Rows of a packed Step that are attended to together."""

    rows: int
    slots: Tensor
    """Of all keys, int64 [R * L]; a row with fewer than L repeats its last."""
    mask: Tensor
    """Additive [R, 1, W * group, L]."""
    lanes: Tensor | None
    """The token of every lane, int64 [R * W]; a row with fewer than W repeats its last.

    None where that is every token of the Step in its order.
    """

    @classmethod
    def from_segments(
        cls, segments: Sequence[Segment], window: int | None, group: int, query: Tensor
    ) -> PaddedRows:
        """The crowd of `segments`; `query` [T, H, D] has `group` heads to a key head."""
        width = max(part.count for part in segments)
        lanes = torch.tensor([_padded(range(part.start, part.stop), width) for part in segments])
        ends = torch.tensor([part.length - part.stop for part in segments])
        own = lanes + ends[:, None]  # positions in the row
        seen = torch.arange(max(part.length for part in segments))
        hidden = seen > own[..., None]
        if window is not None:
            hidden |= seen <= own[..., None] - window
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
        own = query if self.lanes is None else query.index_select(0, self.lanes)
        lanes = own.view(self.rows, -1, keys.shape[1], query.shape[1] // keys.shape[1], dim)
        turned = lanes.transpose(1, 2)
        folded = turned.reshape(self.rows, keys.shape[1], -1, dim)
        told = scaled_dot_product_attention(folded, keys, values, attn_mask=self.mask, scale=scale)
        told = told.view(turned.shape).transpose(1, 2)
        if self.lanes is None:
            out.view(lanes.shape).copy_(told)
        else:
            out.index_copy_(0, self.lanes, told.reshape(own.shape))


def fits_padded_batch(segment: Segment, slot_bytes: int) -> bool:
    """Whether `part` is better off in a crowd, where a slot holds `slot_bytes`."""
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
