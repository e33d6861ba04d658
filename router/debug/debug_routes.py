"""GET `/debug/state`: one event with the server's state several times a second.

The stream ends once the server has drained, or has failed for good. What a state contains is
decided in `router.observability`, when one is sent in `state_feed`.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from router.debug.state_feed import MIN_INTERVAL_SECONDS, StateFeed
from router.dispatch.dispatcher import Dispatcher
from router.http.gateway import Gateway
from router.http.openapi_document import Operation
from router.http.sse import ClientDisconnected, EventStream
from router.observability.server_state import ServerState

DEBUG_OPERATIONS = (
    Operation(
        method="get",
        path="/debug/state",
        summary="Stream the state of scheduler, requests, KV cache and shards",
        event_model=ServerState,
    ),
)


class DebugRoutes:
    """The routes over one dispatcher."""

    def __init__(self, gateway: Gateway, dispatcher: Dispatcher) -> None:
        self._gateway, self._dispatcher = gateway, dispatcher
        self._feed = StateFeed(dispatcher.view.server_state)

    def routes(self) -> list[web.RouteDef]:
        """The routes."""
        return [web.get("/debug/state", self.state, allow_head=False)]

    async def state(self, http: web.Request) -> web.StreamResponse:
        """GET `/debug/state`."""
        with self._feed.subscription():
            async with self._gateway.event_stream(http, {}) as stream:
                try:
                    await self._write_states(stream)
                except ClientDisconnected:
                    return stream.response
        return stream.response

    async def _write_states(self, stream: EventStream) -> None:
        sent = 0
        while True:
            state = self._feed.newest(self._dispatcher.change_count, self._dispatcher.now())
            if state.number != sent:
                sent = state.number
                await stream.write(state.payload)
            if self._has_ended():
                return
            await asyncio.sleep(MIN_INTERVAL_SECONDS)

    def _has_ended(self) -> bool:
        reason = self._dispatcher.view.unhealthy_reason()
        return reason == "failed" or (reason == "draining" and not self._dispatcher.view.live_count)
