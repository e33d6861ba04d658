"""Which work is recorded as CUDA graphs, and when.

A shape runs eagerly until it has been seen `RECORD_AFTER` times. The largest shape is recorded
first, so that all others fit into its memory. All decisions follow from the Steps alone: every rank
records and replays alike, as collectives require. What cannot be recorded stays eager, with one
line in the log.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

import torch

RECORD_AFTER = 2
"""Number of times a shape is seen before it is recorded."""
_log = logging.getLogger(__name__)


class Graph(Protocol):
    """Work recorded once and run again on the same buffers."""

    def record(self, work: Callable[[], None]) -> None:
        """Run `work` to warm it up, then record it. Raises RuntimeError if that is impossible."""

    def replay(self) -> None:
        """Do the recorded work."""


class CudaGraph:
    """A `Graph` of the current CUDA device; all graphs of one `pool` share memory."""

    def __init__(self, pool: Any) -> None:
        self._graph = torch.cuda.CUDAGraph()
        self._pool = pool

    def record(self, work: Callable[[], None]) -> None:
        """See `Graph`. The warm-up compiles kernels, which is not allowed during capture."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            work()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(self._graph, self._pool, capture_error_mode="thread_local"):
            work()

    def replay(self) -> None:
        """See `Graph`."""
        self._graph.replay()


def cuda_graph_factory() -> Callable[[], Graph]:
    """A function that makes CUDA graphs which share one memory pool."""
    pool = torch.cuda.graph_pool_handle()
    return lambda: CudaGraph(pool)


ShapeT = TypeVar("ShapeT", bound=Hashable)


class GraphRecorder(Generic[ShapeT]):
    """Graphs by shape. `make_work(shape)` is the work of a graph of that shape."""

    def __init__(
        self,
        largest: ShapeT,
        make_work: Callable[[ShapeT], Callable[[], None]],
        new_graph: Callable[[], Graph] | None = None,
    ) -> None:
        """`new_graph` makes graphs; by default CUDA graphs of one pool."""
        self._largest, self._make_work = largest, make_work
        self._new_graph = new_graph or cuda_graph_factory()
        self._graphs: dict[ShapeT, Graph] = {}
        self._observed: Counter[ShapeT] = Counter()
        self._failed = False

    @property
    def recorded(self) -> tuple[ShapeT, ...]:
        """The shapes that are replayed, in the order of their recording."""
        return tuple(self._graphs)

    def get(self, shape: ShapeT) -> Graph | None:
        """The graph of `shape`, if it is recorded."""
        return self._graphs.get(shape)

    def observe(self, shape: ShapeT) -> None:
        """Count `shape`, which has just run eagerly, and record it if it is due."""
        self._observed[shape] += 1
        if self._failed or self._observed[shape] < RECORD_AFTER:
            return
        try:
            for wanted in (self._largest, shape):
                if wanted not in self._graphs:
                    graph = self._new_graph()
                    graph.record(self._make_work(wanted))
                    self._graphs[wanted] = graph
        except RuntimeError as fault:
            self._failed = True
            self._graphs.clear()
            _log.warning("CUDA graphs are off, forwards run eagerly: %s", fault)
