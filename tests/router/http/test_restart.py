"""A server can be restarted on its port at once, although clients poll it all the time."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from router.cli import port
from router.http.access import AccessPolicy
from router.http.server import build_application, run_server
from tests.support.nightly import nightly
from tests.support.poller import polling
from tests.support.serving import TIMEOUTS


@pytest.mark.parametrize("restarts", [5, nightly(100)])
async def test_every_restart_under_a_poller_gets_the_port(restarts: int) -> None:
    with port.bind("127.0.0.1", 0) as first:
        number = first.getsockname()[1]
    for _ in range(restarts):
        await serve_until_polled(number)


async def serve_until_polled(number: int) -> None:
    """Serve on port `number`, which is polled from before it listens, until polls are answered."""
    app = build_application([], AccessPolicy(), 1000)
    with ExitStack() as poller:
        responses = poller.enter_context(polling(number))

        async def polled() -> None:
            for _ in range(3):
                await asyncio.to_thread(responses.get, timeout=30)
            await asyncio.to_thread(poller.close)

        with port.bind("127.0.0.1", number) as listener:
            await run_server(
                app, listener, 100, TIMEOUTS, on_ready=lambda: None, wait_drained=polled
            )
