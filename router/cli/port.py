"""The HTTP socket before the server listens on it: bound, so that no other process can take it.

The launcher binds the socket and keeps it; the router listens on it once it is ready. Until then
clients are refused, and retry. SO_REUSEADDR needs care: while it is set on a bound socket, another
server that is still loading could bind the same port; and without it, a server could not restart
while connections of the previous one linger in TIME_WAIT. So it is set only for the moment of
binding, and again when the socket starts to listen (`router.http.server`), so that every accepted
connection inherits it.
"""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

TCP_LISTEN_STATE = "0A"
"""State of a listening socket in /proc/net/tcp."""


class PortInUse(Exception):
    """The port is taken. The text is one line: its owner as far as /proc shows it, a free port."""


def bind(hostname: str, port: int) -> socket.socket:
    """Bind a TCP socket without listening on it.

    Raises PortInUse for a taken port, and OSError for an address that this host does not have.
    """
    addresses = socket.getaddrinfo(hostname, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = addresses[0]
    listener = _bind_if_free(family, address, reuse=False) or _bind_if_free(
        family, address, reuse=True
    )
    if listener is None:
        raise PortInUse(
            f"port {port} is in use by {_port_owner(port)}{_free_port_hint(family, address)}"
        )
    return listener


def url(listener: socket.socket) -> str:
    """The server's URL for a client on this host."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _bind_if_free(family: int, address: Any, *, reuse: bool) -> socket.socket | None:
    """A bound socket that excludes all others; None if another process holds the address."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        listener.bind(address)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, False)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise
    return listener


def _free_port_hint(family: int, address: Any) -> str:
    for port in range(address[1] + 1, 1 << 16):
        if listener := _bind_if_free(family, (address[0], port, *address[2:]), reuse=False):
            listener.close()
            return f"; port {port} is free: `--port {port}`"
    return ""


def _port_owner(port: int) -> str:
    rows = [row.split() for table in ("tcp", "tcp6") for row in _lines(f"/proc/net/{table}")]
    sockets = {
        f"socket:[{row[9]}]"
        for row in rows
        if row[3] == TCP_LISTEN_STATE and row[1].endswith(f":{port:04X}")
    }
    for process in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # the process has ended, or belongs to another user
            links = Path(f"/proc/{process}/fd").iterdir()
            if any(os.readlink(link) in sockets for link in links):
                return f"process {process} ({_lines(f'/proc/{process}/comm')[0]})"
    return "another process"


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []
