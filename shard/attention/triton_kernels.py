"""Triton kernels: attention of a few new tokens per row over the paged pool, for decode and verify.

One program handles a row, one key head, a tile of its queries and one split of the row's keys. The
query heads that share the key head are folded into the tile, so keys are read once for all of them
and for all tokens that a row verifies. A second kernel merges the splits (flash decoding: Dao et
al. 2023; the running maximum: Milakov & Gimelshein 2018). `paged_triton` launches them.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _key_blocks(
    length,
    count,
    part,
    WINDOW: tl.constexpr,
    CHUNK: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The blocks of keys of one split: an even share of those that any query sees."""
    first = 0
    if WINDOW > 0:
        first = tl.maximum(0, length - count - WINDOW + 1) // BLOCK
    if CHUNK > 0:
        first = (length - count) // CHUNK * CHUNK // BLOCK
    stop = (length + BLOCK - 1) // BLOCK
    share = (stop - first + SPLITS - 1) // SPLITS
    begin = first + part * share
    return begin, tl.minimum(begin + share, stop)


@triton.jit
def _load(start, real, kept, dims, CAST: tl.constexpr):
    """Vectors that begin at `start`; zero where not `kept` and beyond their `real` size."""
    loaded = tl.load(start[:, None] + dims[None], mask=kept[:, None] & real[None], other=0.0)
    return loaded.to(tl.float32) if CAST else loaded


@triton.jit
def _scores(
    q,
    k,
    key_position,
    position,
    used,
    scale,
    softcap,
    WINDOW: tl.constexpr,
    CHUNK: tl.constexpr,
    SOFTCAP: tl.constexpr,
):
    """Scores of queries at `position` for keys at `key_position`; -inf where not seen."""
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
    seen = (key_position[None] <= position[:, None]) & used[:, None]
    if WINDOW > 0:
        seen &= key_position[None] > position[:, None] - WINDOW
    if CHUNK > 0:
        seen &= key_position[None] >= position[:, None] // CHUNK * CHUNK
    if SOFTCAP:
        scores = softcap * (2.0 / (1.0 + tl.exp(-2.0 * scores / softcap)) - 1.0)
    return tl.where(seen, scores, float("-inf"))


@triton.jit
def _accumulate(scores, v, peak, weight, total):
    """Add one block to the running softmax: maximum, sum of weights, weighted values."""
    higher = tl.maximum(peak, tl.max(scores, 1))
    safe = tl.where(higher == float("-inf"), 0.0, higher)  # a query that has seen no key yet
    shares = tl.exp(scores - safe[:, None])
    fade = tl.exp(peak - safe)
    total = total * fade[:, None] + tl.dot(shares.to(v.dtype), v, input_precision="ieee")
    return higher, weight * fade + tl.sum(shares, 1), total


@triton.jit
def attend_split(
    query,
    pool,
    table,
    starts,
    counts,
    lengths,
    partial,
    peaks,
    sums,
    query_head,
    query_token,
    pool_slot,
    pool_head,
    table_row,
    scale,
    softcap,
    width,
    GROUP: tl.constexpr,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    CHUNK: tl.constexpr,
    SOFTCAP: tl.constexpr,
    SPLITS: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    CAST: tl.constexpr,
):
    """One split of the keys for one tile: unnormalised sums, their weight and their maximum."""
    row, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2) % SPLITS
    heads = tl.num_programs(1)
    count = tl.load(counts + row)
    length = tl.load(lengths + row)
    tile_row = (tl.program_id(2) // SPLITS) * TILE + tl.arange(0, TILE)
    token, head_of = tile_row // GROUP, head * GROUP + tile_row % GROUP
    used = token < count
    position = length - count + token
    dims = tl.arange(0, PADDED)
    real = dims < DIM
    at = (tl.load(starts + row) + token).to(tl.int64) * query_token + head_of * query_head
    q = _load(query + at, real, used, dims, CAST)
    begin, stop = _key_blocks(length, count, part, WINDOW, CHUNK, SPLITS, BLOCK)
    peak = tl.full([TILE], float("-inf"), tl.float32)
    weight = tl.zeros([TILE], tl.float32)
    total = tl.zeros([TILE, PADDED], tl.float32)
    for block in range(begin, stop):
        key_position = block * BLOCK + tl.arange(0, BLOCK)
        held = key_position < length
        page = tl.load(table + row * table_row + key_position // PAGE, mask=held, other=0)
        slot = (page.to(tl.int64) * PAGE + key_position % PAGE) * pool_slot + head * pool_head
        k = _load(pool + slot, real, held, dims, CAST)
        v = _load(pool + slot + heads * pool_head, real, held, dims, CAST)
        scores = _scores(q, k, key_position, position, used, scale, softcap, WINDOW, CHUNK, SOFTCAP)
        peak, weight, total = _accumulate(scores, v, peak, weight, total)
    # partial is [row, token, query head, part, DIM]
    line = ((row * width + token).to(tl.int64) * heads * GROUP + head_of) * SPLITS + part
    tl.store(peaks + line, peak, mask=used)
    tl.store(sums + line, weight, mask=used)
    kept = used[:, None] & real[None]
    tl.store(partial + line[:, None] * DIM + dims[None], total, mask=kept)


@triton.jit
def merge_splits(
    partial,
    peaks,
    sums,
    starts,
    counts,
    sinks,
    out,
    width,
    DIM: tl.constexpr,
    PADDED: tl.constexpr,
    SINKS: tl.constexpr,
    SPLITS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Merge the splits of one token and query head, and its sink, into one output."""
    row, token, head = tl.program_id(0) // width, tl.program_id(0) % width, tl.program_id(1)
    if token >= tl.load(counts + row):
        return
    heads = tl.num_programs(1)
    parts, dims = tl.arange(0, PARTS), tl.arange(0, PADDED)
    used = parts < SPLITS
    line = (tl.program_id(0).to(tl.int64) * heads + head) * SPLITS + parts
    peak = tl.load(peaks + line, mask=used, other=float("-inf"))
    highest = tl.max(peak, 0)
    if SINKS:
        sink = tl.load(sinks + head).to(tl.float32)
        highest = tl.maximum(highest, sink)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    factor = tl.exp(peak - highest)
    weight = tl.sum(tl.load(sums + line, mask=used, other=0.0) * factor, 0)
    if SINKS:
        weight += tl.exp(sink - highest)
    kept = used[:, None] & (dims < DIM)[None]
    value = tl.load(partial + line[:, None] * DIM + dims[None], mask=kept, other=0.0)
    total = tl.sum(value * factor[:, None], 0) / tl.where(weight > 0.0, weight, 1.0)
    at = ((tl.load(starts + row) + token).to(tl.int64) * heads + head) * DIM
    tl.store(out + at + dims, total.to(out.dtype.element_ty), mask=dims < DIM)
