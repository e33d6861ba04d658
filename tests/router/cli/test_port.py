"""The port is ours from the start, and free again for the next server."""

from __future__ import annotations

import socket

import pytest

from router.cli import port as listener


def test_a_bound_port_that_does_not_listen_yet_cannot_be_bound_again() -> None:
    with listener.bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(listener.PortInUse, match=f"port {port} is in use"):
            listener.bind("127.0.0.1", port)


def test_a_listening_port_cannot_be_bound_again() -> None:
    with listener.bind("127.0.0.1", 0) as first:
        first.listen()
        listener.allow_address_reuse(first)
        with pytest.raises(listener.PortInUse, match="is free"):
            listener.bind("127.0.0.1", first.getsockname()[1])


def test_connections_that_linger_do_not_keep_the_next_server_from_the_port() -> None:
    with listener.bind("127.0.0.1", 0) as first:
        first.listen()
        listener.allow_address_reuse(first)
        port = first.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        first.accept()[0].close()  # the side that closes first keeps the port in TIME_WAIT
        assert client.recv(1) == b""
        client.close()
    listener.bind("127.0.0.1", port).close()


def test_the_url_is_one_that_a_client_on_this_machine_can_use() -> None:
    with listener.bind("0.0.0.0", 0) as bound:
        assert listener.url(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_an_address_of_another_machine_is_an_os_error() -> None:
    with pytest.raises(OSError, match="assign requested address"):
        listener.bind("192.0.2.1", 0)
