"""Launches the Triton kernels of attention over the paged pool, for decode and verification.

Nothing depends on values on the host except shapes, so a launch can be captured in a CUDA graph.

Under TRITON_INTERPRET=1 the same code runs on CPU tensors. The interpreter multiplies bfloat16
incorrectly, so there, and only there, operands of a product are cast to float32 first.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from shard.attention.triton_kernels import attend_split, merge_splits
from shard.attention.visibility import EVERY_KEY, Visibility

_INTERPRETED = bool(triton.knobs.runtime.interpret)
_TILE = 64
"""Maximum number of query rows (tokens times heads of a group) of one program."""


def paged_attention(
    query: Tensor,
    pool: Tensor,
    table: Tensor,
    starts: Tensor,
    counts: Tensor,
    lengths: Tensor,
    out: Tensor,
    *,
    page: int,
    width: int,
    splits: int,
    scale: float,
    visibility: Visibility = EVERY_KEY,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> None:
    """Fill `out` [T, H, D] (contiguous) for the tokens of every row; others stay as they are.

    The new tokens of row r are `starts[r] : starts[r] + counts[r]` of `query` [T, H, D], at most
    `width` of them; they are the last of its `lengths[r]` tokens, whose slots are in pages
    `table[r]` [R, P]. All four are int32. `pool` is [slots, 2 * key heads, D], keys first; the last
    dimension of `query` and `pool` must be contiguous. `splits` programs share the keys of a row.
    """
    _, heads, dim = query.shape
    rows, kv_heads = counts.shape[0], pool.shape[1] // 2
    group = heads // kv_heads
    padded, tile, block = tile_sizes(dim, width * group, pool.element_size())
    tiles = triton.cdiv(width * group, tile)
    partial = query.new_empty((rows * width, heads, splits, dim), dtype=torch.float32)
    peaks, sums = partial.new_empty((2, rows * width, heads, splits))
    attend_split[(rows, kv_heads, splits * tiles)](
        query,
        pool,
        table,
        starts,
        counts,
        lengths,
        partial,
        peaks,
        sums,
        query.stride(1),
        query.stride(0),
        pool.stride(0),
        pool.stride(1),
        table.stride(0),
        scale,
        softcap or 0.0,
        width,
        GROUP=group,
        DIM=dim,
        PADDED=padded,
        PAGE=page,
        WINDOW=visibility.window or 0,
        CHUNK=visibility.chunk or 0,
        SOFTCAP=softcap is not None,
        SPLITS=splits,
        TILE=tile,
        BLOCK=block,
        CAST=_INTERPRETED,
        num_stages=2,
    )
    _merge(partial, peaks, sums, starts, counts, sinks, out, width)


def _merge(
    partial: Tensor,
    peaks: Tensor,
    sums: Tensor,
    starts: Tensor,
    counts: Tensor,
    sinks: Tensor | None,
    out: Tensor,
    width: int,
) -> None:
    lines, heads, splits, dim = partial.shape
    merge_splits[(lines, heads)](
        partial,
        peaks,
        sums,
        starts,
        counts,
        sums if sinks is None else sinks,
        out,
        width,
        DIM=dim,
        PADDED=padded_size(dim),
        SINKS=sinks is not None,
        SPLITS=splits,
        PARTS=triton.next_power_of_2(splits),
    )


def padded_size(dim: int) -> int:
    """Head size that a product of Triton accepts."""
    size: int = max(16, triton.next_power_of_2(dim))
    return size


def tile_sizes(dim: int, queries: int, itemsize: int) -> tuple[int, int, int]:
    """Padded head size, query rows and keys of one program, as shared memory allows."""
    padded = padded_size(dim)
    tile = min(_TILE, max(16, triton.next_power_of_2(queries)))
    return padded, tile, 64 if padded * itemsize <= 256 else 32
