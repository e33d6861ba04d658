"""A replica: an actor that owns a placement group and runs the launcher in it as a child process.

Passes requests on and reports the scheduler's estimates; must not know how replicas are chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp

from deploy.ray.call import Call, Head, end_to_end
from deploy.ray.launched import Launched, gauges

WAIT, WORK = "tgi_estimated_wait_seconds", "tgi_estimated_work_seconds"
QUEUED, RUNNING = "tgi_queue_size", "tgi_requests_running"
CONNECT_SECONDS = 10.0


class Replica:
    """One launcher."""

    def __init__(self, command: Sequence[str]) -> None:
        """`command`: the launcher with its flags. Returns when it serves."""
        self._launched = Launched(command)
        self._session: aiohttp.ClientSession | None = None
        self._received: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()

    async def forward(self, call: Call) -> AsyncIterator[Head | bytes]:
        """Yield the head of the response, then its body as it comes."""
        self._received[call.front] += 1
        try:
            async with self._open().request(
                call.method, call.path, headers=call.headers, data=call.body, allow_redirects=False
            ) as response:
                yield Head(response.status, end_to_end(response.headers.items()))
                async for chunk in response.content.iter_any():
                    yield chunk
        finally:
            self._answered[call.front] += 1

    async def record_routing_stats(self) -> dict[str, Any]:
        """Report what `deploy.ray.views.Report` has."""
        received, answered = dict(self._received), dict(self._answered)
        values = await self._gauges()
        return {
            "live": int(values[QUEUED] + values[RUNNING]),
            "work": values[WORK],
            "wait": values[WAIT],
            "received": received,
            "answered": answered,
        }

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Report the estimated work, by which `deploy.ray.autoscaling` decides."""
        return {WORK: (await self._gauges())[WORK]}

    def check_health(self) -> None:
        """Raise if the launcher has ended; Serve starts another replica then."""
        self._launched.check()

    def __del__(self) -> None:
        if hasattr(self, "_launched"):
            self._launched.stop()

    def _open(self) -> aiohttp.ClientSession:
        """The connections to the launcher; opened on the loop that uses them."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
            self._session = aiohttp.ClientSession(
                self._launched.url,
                timeout=timeout,
                auto_decompress=False,
                connector=aiohttp.TCPConnector(limit=0),
            )
        return self._session

    async def _gauges(self) -> dict[str, float]:
        async with self._open().get("/metrics") as response:
            return gauges(await response.text(), (QUEUED, RUNNING, WORK, WAIT))
