"""The native routes that ask how the server does, or a request: health, facts, metrics, standing.

They read what others own and never wait; only `cancel` changes anything.
"""

from __future__ import annotations

from aiohttp import web

from router.dispatch.dispatcher import Dispatcher
from router.errors import NotFound
from router.http.json_response import reply
from router.native import response_bodies
from router.observability import scheduler_status
from router.observability.metrics import Metrics
from router.requests.request import Bounds
from router.server_info import About


class Probes:
    """The routes over one dispatcher."""

    def __init__(
        self, dispatcher: Dispatcher, metrics: Metrics, bounds: Bounds, about: About
    ) -> None:
        self._dispatcher, self._metrics = dispatcher, metrics
        self._bounds, self._about = bounds, about

    def routes(self) -> list[web.RouteDef]:
        """Path by path."""
        return [
            *(web.get(path, self.health) for path in ("/", "/health", "/ping")),
            web.get("/health/live", self.live),
            web.get("/health/ready", self.ready),
            web.get("/info", self.info),
            web.get("/metrics", self.metrics),
            web.get("/requests/{request_id}", self.standing),
            web.delete("/requests/{request_id}", self.cancel),
            web.post("/cancel/{request_id}", self.cancel),
        ]

    async def health(self, http: web.Request) -> web.StreamResponse:
        """GET `/`, `/health`, `/ping`."""
        return web.Response() if self._dispatcher.healthy() is None else _unhealthy({})

    async def ready(self, http: web.Request) -> web.StreamResponse:
        """GET `/health/ready`: the same, with the reason."""
        reason = self._dispatcher.healthy()
        return web.Response() if reason is None else _unhealthy({"reason": reason})

    async def live(self, http: web.Request) -> web.StreamResponse:
        """GET `/health/live`: whether this loop runs."""
        return web.Response()

    async def info(self, http: web.Request) -> web.StreamResponse:
        """GET `/info`."""
        return reply(response_bodies.info(self._about, self._bounds, self._dispatcher.view()))

    async def standing(self, http: web.Request) -> web.StreamResponse:
        """GET `/requests/{request_id}`: how long it will wait, and what it has had."""
        request_id = http.match_info["request_id"]
        found = self._dispatcher.look(request_id)
        if not found:
            raise NotFound
        return reply(scheduler_status.standing(request_id, found))

    async def cancel(self, http: web.Request) -> web.StreamResponse:
        """DELETE `/requests/{request_id}`, POST `/cancel/{request_id}`: end it."""
        request_id = http.match_info["request_id"]
        cancelled = self._dispatcher.cancel(request_id)
        if not cancelled:
            raise NotFound
        return reply({"request_id": request_id, "cancelled": cancelled})

    async def metrics(self, http: web.Request) -> web.StreamResponse:
        """GET `/metrics`."""
        self._metrics.observe(self._dispatcher.view())
        body = self._metrics.render()
        return web.Response(body=body, content_type="text/plain", charset="utf-8")


def _unhealthy(more: dict[str, str]) -> web.Response:
    return reply({"error": "unhealthy", "error_type": "healthcheck", **more}, status=503)
