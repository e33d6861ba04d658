"""A client that polls a port without a pause, as load balancers and start scripts do."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Event, Thread

REQUEST = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@contextmanager
def polling(port: int) -> Iterator[SimpleQueue[bytes]]:
    """Poll `port` from several threads inside the block; yield the queue of the responses."""
    responses: SimpleQueue[bytes] = SimpleQueue()
    stop = Event()
    threads = [Thread(target=_poll, args=(port, responses, stop)) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield responses
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _poll(port: int, responses: SimpleQueue[bytes], stop: Event) -> None:
    while not stop.wait(0.001):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                client.sendall(REQUEST)
                if response := client.recv(1 << 16):
                    responses.put(response)
        except OSError:  # nobody listens, or the server ends
            continue
