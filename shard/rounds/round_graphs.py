"""Whole device rounds as CUDA graphs: draft, verification and acceptance are one replay.

A graph is recorded per shape: rows up to a bucket, drafts, and the kind of sampling. Rounds of a
shape differ in which slots of the row table run and how many drafts each may have; both are in one
buffer. Surplus rows of a bucket run on slot 0, which is never alive, and so write to the trash
page. The row table's address never changes. When to record is decided by `graph_recorder`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shard.model.cuda_graphs import ROW_BUCKETS
from shard.model.graph_recorder import Graph, GraphRecorder
from shard.rounds.device_round import DeviceRound
from shard.rounds.device_rows import SamplingKind
from shard.rounds.round_result import result_width


@dataclass(frozen=True, slots=True)
class RoundShape:
    """Rounds of at most `rows` rows with `drafts` drafts."""

    rows: int
    drafts: int
    kind: SamplingKind


class RoundGraphs:
    """Runs rounds of `device_round`: replayed if their shape is recorded, otherwise eagerly."""

    def __init__(
        self,
        device_round: DeviceRound,
        rows: int,
        drafts: int,
        device: torch.device,
        new_graph: Callable[[], Graph] | None = None,
    ) -> None:
        """For up to `rows` rows and `drafts` drafts; `new_graph` makes CUDA graphs by default."""
        max_rows = ROW_BUCKETS[bisect_left(ROW_BUCKETS, min(rows, ROW_BUCKETS[-1]))]
        self._device_round = device_round
        self._slots_and_drafts = torch.zeros(2, max_rows, dtype=torch.int64, device=device)
        self._output_buffer = torch.zeros(
            max_rows * result_width(drafts), dtype=torch.int32, device=device
        )
        """Every shape writes its result here."""
        self._recorder = GraphRecorder(
            RoundShape(max_rows, drafts, SamplingKind.FILTERED), self._make_work, new_graph
        )

    def __call__(
        self, slots_and_drafts: Tensor, drafts: int, kind: SamplingKind, max_pages: int
    ) -> Tensor:
        """`DeviceRound.run`; the result is valid until the next call."""
        rows = slots_and_drafts.shape[1]
        if rows > self._slots_and_drafts.shape[1]:
            return self._device_round.run(slots_and_drafts, drafts, kind, max_pages)
        shape = RoundShape(ROW_BUCKETS[bisect_left(ROW_BUCKETS, rows)], drafts, kind)
        graph = self._recorder.get(shape)
        if graph is None:
            result = self._device_round.run(slots_and_drafts, drafts, kind, max_pages)
            self._recorder.observe(shape)
            return result
        self._slots_and_drafts[:, rows : shape.rows] = 0
        self._slots_and_drafts[:, :rows].copy_(slots_and_drafts)
        graph.replay()
        return self._output_view(shape)[:rows]

    @property
    def recorded(self) -> tuple[RoundShape, ...]:
        """The shapes that are replayed, in the order of their recording."""
        return self._recorder.recorded

    def _output_view(self, shape: RoundShape) -> Tensor:
        width = result_width(shape.drafts)
        return self._output_buffer[: shape.rows * width].view(shape.rows, width)

    def _make_work(self, shape: RoundShape) -> Callable[[], None]:
        """The round of `shape`, with padding for rows."""
        self._slots_and_drafts.zero_()
        slots_and_drafts = self._slots_and_drafts[:, : shape.rows]
        output = self._output_view(shape)

        def work() -> None:
            output.copy_(self._device_round.run(slots_and_drafts, shape.drafts, shape.kind))

        return work
