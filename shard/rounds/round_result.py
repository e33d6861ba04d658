"""The result of a device round: one line of int32 per row, and its copy to the host.

A line holds flags, token count, drafted, accepted, then the chosen tokens and the bits of their
log-probabilities. Of those the first `accepted` + 1 count, up to the end of the row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shard.wire.protocol import RowResult

FLAG_ALIVE, FLAG_FINITE, FLAG_HAS_PAGES = 1, 2, 4
"""Bits of the flags: the row was alive; its logits were finite; it owned all pages it needed."""
_HEADER_COLUMNS = 4


@dataclass(frozen=True, slots=True)
class RoundResult:
    """One row's line, decoded on the host."""

    flags: int
    token_count: int
    """Tokens that the row has after the round."""
    drafted: int
    accepted: int
    tokens: list[int]
    logprobs: list[float]


def result_width(drafts: int) -> int:
    """Columns of the result of a round with up to `drafts` drafts per row."""
    return _HEADER_COLUMNS + 2 * (drafts + 1)


def encode_result(header: Tensor, tokens: Tensor, logprobs: Tensor) -> Tensor:
    """int32 [B, result_width]; `header` is int64 [B, 4], `logprobs` float32 [B, drafts + 1]."""
    return torch.cat((header.int(), tokens.int(), logprobs.view(torch.int32)), 1)


def decode_result(result: Tensor) -> list[RoundResult]:
    """The lines of a result [B, columns] that lies on the host."""
    lanes = (result.shape[1] - _HEADER_COLUMNS) // 2
    logprobs = result[:, _HEADER_COLUMNS + lanes :].contiguous().view(torch.float32).tolist()
    lines = [
        (line[:_HEADER_COLUMNS], line[_HEADER_COLUMNS : _HEADER_COLUMNS + lanes])
        for line in result.tolist()
    ]
    return [
        RoundResult(header[0], header[1], header[2], header[3], tokens, values)
        for (header, tokens), values in zip(lines, logprobs, strict=True)
    ]


class AsyncResultCopy:
    """A result on its way to the host, which need not wait for it."""

    def __init__(
        self, result: Tensor, apply: Callable[[list[RoundResult]], tuple[RowResult, ...]]
    ) -> None:
        """Start the copy: on CUDA to pinned memory, behind the round itself, then an event.

        `apply` turns the lines into the results of the Step; it is called once, by `finish`.
        """
        cuda = result.is_cuda
        self._apply = apply
        self._host_copy = torch.empty(result.shape, dtype=result.dtype, pin_memory=cuda)
        self._host_copy.copy_(result, non_blocking=cuda)
        self._event: Any = torch.cuda.Event() if cuda else None
        if self._event is not None:
            self._event.record()

    def is_complete(self) -> bool:
        """Whether the copy has arrived."""
        return self._event is None or bool(self._event.query())

    def finish(self) -> tuple[RowResult, ...]:
        """Wait for the copy and apply it. Rounds must be finished in the order of their starts."""
        if self._event is not None:
            self._event.synchronize()
        return self._apply(decode_result(self._host_copy))
