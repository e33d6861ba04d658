"""Whole resident rounds as CUDA graphs: draft, verification and acceptance are one replay.

A graph is recorded per shape: rows up to a bucket, drafts, and how much sampling asks. What
differs between rounds of a shape is which slots of the row table run and how many drafts each may
have; both lie in one buffer. Rows that a bucket has too many run on slot 0, which is never alive,
and so write to the trash page. The row table itself is where it always is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shard.model.cuda_graphs import ROWS
from shard.model.graph_recorder import Graph, Recorder
from shard.rounds.device_round import Resident, columns
from shard.rounds.device_rows import Kind


@dataclass(frozen=True, slots=True)
class Shape:
    """Rounds of at most `rows` rows with `drafts` drafts."""

    rows: int
    drafts: int
    kind: Kind


class RoundGraphs:
    """Runs rounds of `resident`: replayed where their shape is recorded, else eagerly."""

    def __init__(
        self,
        resident: Resident,
        rows: int,
        drafts: int,
        device: torch.device,
        new: Callable[[], Graph] | None = None,
    ) -> None:
        """For up to `rows` rows and `drafts` drafts; `new` makes graphs, by default CUDA's."""
        most = ROWS[bisect_left(ROWS, min(rows, ROWS[-1]))]
        self._resident = resident
        self._numbers = torch.zeros(2, most, dtype=torch.int64, device=device)
        self._room = torch.zeros(most * columns(drafts), dtype=torch.int32, device=device)
        """Where every shape leaves its result."""
        self._recorder = Recorder(Shape(most, drafts, Kind.BENT), self._work, new)

    def __call__(self, numbers: Tensor, drafts: int, kind: Kind, reach: int) -> Tensor:
        """`Resident.round` for `numbers` [2, B]; valid until the next call."""
        rows = numbers.shape[1]
        if rows > self._numbers.shape[1]:
            return self._resident.round(numbers, drafts, kind, reach)
        shape = Shape(ROWS[bisect_left(ROWS, rows)], drafts, kind)
        graph = self._recorder.find(shape)
        if graph is None:
            result = self._resident.round(numbers, drafts, kind, reach)
            self._recorder.meet(shape)
            return result
        self._numbers[:, rows : shape.rows] = 0
        self._numbers[:, :rows].copy_(numbers)
        graph.replay()
        return self._result(shape)[:rows]

    @property
    def recorded(self) -> tuple[Shape, ...]:
        """The shapes that are replayed, in the order of their recording."""
        return self._recorder.recorded

    def _result(self, shape: Shape) -> Tensor:
        width = columns(shape.drafts)
        return self._room[: shape.rows * width].view(shape.rows, width)

    def _work(self, shape: Shape) -> Callable[[], None]:
        """The round of `shape`, whose rows are left as padding."""
        self._numbers.zero_()
        numbers, room = self._numbers[:, : shape.rows], self._result(shape)

        def work() -> None:
            room.copy_(self._resident.round(numbers, shape.drafts, shape.kind))

        return work
