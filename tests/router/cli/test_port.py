"""The port is taken from the start, and free again for the next server."""

from __future__ import annotations

import errno
import socket

import pytest

from router.cli import port


def listen(listener: socket.socket) -> None:
    """Listen as `router.http.server` does."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
    listener.listen()


def linger(listener: socket.socket) -> None:
    """Leave a connection in TIME_WAIT, where the side stays that closes first."""
    client = socket.create_connection(listener.getsockname())
    listener.accept()[0].close()
    assert client.recv(1) == b""
    client.close()


def test_a_bound_port_that_does_not_listen_yet_cannot_be_bound_again() -> None:
    with port.bind("127.0.0.1", 0) as first:
        number = first.getsockname()[1]
        with pytest.raises(port.PortInUse, match=f"port {number} is in use"):
            port.bind("127.0.0.1", number)


def test_a_listening_port_cannot_be_bound_again() -> None:
    with port.bind("127.0.0.1", 0) as first:
        listen(first)
        with pytest.raises(port.PortInUse, match="is free"):
            port.bind("127.0.0.1", first.getsockname()[1])


def test_lingering_connections_do_not_keep_the_next_servers_from_the_port() -> None:
    with port.bind("127.0.0.1", 0) as first:
        listen(first)
        number = first.getsockname()[1]
        linger(first)
    for _ in range(3):
        with port.bind("127.0.0.1", number) as following:
            listen(following)
            linger(following)


@pytest.mark.parametrize("reuse", [False, True])
def test_lingering_connections_do_not_let_two_servers_that_load_share_the_port(
    reuse: bool,
) -> None:
    with socket.socket() as foreign:  # another program that served on this port
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        foreign.bind(("127.0.0.1", 0))
        number = foreign.getsockname()[1]
        listen(foreign)
        linger(foreign)
    with port.bind("127.0.0.1", number), pytest.raises(port.PortInUse):
        port.bind("127.0.0.1", number)


def test_lingering_connections_of_a_program_that_does_not_share_are_reported() -> None:
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen()
        number = foreign.getsockname()[1]
        linger(foreign)
    with pytest.raises(port.PortInUse, match=f"port {number} is in use"):
        port.bind("127.0.0.1", number)


def test_a_client_on_this_host_can_use_the_url() -> None:
    with port.bind("0.0.0.0", 0) as bound:
        assert port.url(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_an_address_of_another_host_raises_os_error() -> None:
    with pytest.raises(OSError, match="assign requested address") as caught:
        port.bind("192.0.2.1", 0)
    assert caught.value.errno == errno.EADDRNOTAVAIL
