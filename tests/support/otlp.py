"""An OTLP collector on a free port, which keeps what it gets over gRPC."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc


class Collector:
    """The service of one kind of telemetry, whose requests are answered by `response`."""

    def __init__(self, response: Callable[[], Any]) -> None:
        self.received: queue.Queue[Any] = queue.Queue()
        self._response = response

    def Export(self, request: Any, context: object) -> Any:
        """Keep a request."""
        self.received.put(request)
        return self._response()


@contextmanager
def collecting(
    add_to_server: Callable[[Any, grpc.Server], None], response: Callable[[], Any]
) -> Iterator[tuple[Collector, str]]:
    """A collector and where it listens. `add_to_server`: the generated function of its service."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    collector = Collector(response)
    add_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
