"""The port is taken from the start, and free again for the next server."""

from __future__ import annotations

import socket

import pytest

from router.cli import port


def test_a_bound_port_that_does_not_listen_yet_cannot_be_bound_again() -> None:
    with port.bind("127.0.0.1", 0) as first:
        number = first.getsockname()[1]
        with pytest.raises(port.PortInUse, match=f"port {number} is in use"):
            port.bind("127.0.0.1", number)


def test_a_listening_port_cannot_be_bound_again() -> None:
    with port.bind("127.0.0.1", 0) as first:
        first.listen()
        port.allow_address_reuse(first)
        with pytest.raises(port.PortInUse, match="is free"):
            port.bind("127.0.0.1", first.getsockname()[1])


def test_lingering_connections_do_not_keep_the_next_server_from_the_port() -> None:
    with port.bind("127.0.0.1", 0) as first:
        first.listen()
        port.allow_address_reuse(first)
        number = first.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", number))
        first.accept()[0].close()  # the side that closes first keeps the port in TIME_WAIT
        assert client.recv(1) == b""
        client.close()
    port.bind("127.0.0.1", number).close()


def test_a_client_on_this_host_can_use_the_url() -> None:
    with port.bind("0.0.0.0", 0) as bound:
        assert port.url(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_an_address_of_another_host_raises_os_error() -> None:
    with pytest.raises(OSError, match="assign requested address"):
        port.bind("192.0.2.1", 0)
