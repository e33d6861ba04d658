"""What the operator reads about the server's address: a warning before, the URL when it serves.

Decides the words only; where they are shown is for the log to decide.
"""

from __future__ import annotations

import socket

from router.cli import port
from router.cli.console import ConsoleLog
from router.config import ServerConfig

CURL_EXAMPLE = (
    """curl {url}/generate -H 'Content-Type: application/json' -d '{{"inputs": "Once upon"}}'"""
)


def exposure_warning(server: ServerConfig) -> str | None:
    """A warning for a server that everyone can reach and use; None for any other."""
    everywhere = server.hostname in ("", "0.0.0.0", "::")  # noqa: S104
    if server.api_key or server.api_key_file or not everywhere:
        return None
    return (
        "the server listens on all interfaces without an API key; set `--api-key-file`, or"
        " `--hostname 127.0.0.1`"
    )


def announce(http_socket: socket.socket, log: ConsoleLog, *, with_pages: bool) -> None:
    """Log the URL of the server, which now listens, and that of its page."""
    url = port.url(http_socket)
    page = f"{url}/ui" if with_pages else None
    curl = CURL_EXAMPLE.format(url=url)
    text = f"Connected: serving at {url}{f'; page: {page}' if page else ''}; try: {curl}"
    log(text, event="connected", url=url, page=page, curl=curl)
