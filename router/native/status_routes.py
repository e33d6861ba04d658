"""The native routes about the server or a request: health, `/info`, metrics, status, cancel.

They read what others own and never wait; only `cancel` changes anything.
"""

from __future__ import annotations

from aiohttp import web

from router.dispatch.dispatcher import Dispatcher
from router.errors import retry_after
from router.http.connections import CONNECTION_COUNTS
from router.http.context import CALLER, PATH_PARAMETERS
from router.http.http_errors import NotFound
from router.http.json_response import json_response
from router.native import response_bodies
from router.observability import scheduler_status
from router.observability.metrics import Metrics
from router.requests.request import ResolvedLimits
from router.server_info import ServerInfo


class StatusRoutes:
    """The routes over one dispatcher."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        metrics: Metrics,
        bounds: ResolvedLimits,
        server_info: ServerInfo,
    ) -> None:
        self._dispatcher, self._metrics = dispatcher, metrics
        self._bounds, self._server_info = bounds, server_info

    def routes(self) -> list[web.RouteDef]:
        """The routes."""
        return [
            *(web.get(path, self.health) for path in ("/", "/health", "/ping")),
            web.get("/health/live", self.live),
            web.get("/health/ready", self.ready),
            web.get("/info", self.info),
            web.get("/metrics", self.metrics),
            web.get("/requests/{request_id}", self.request_status),
            web.delete("/requests/{request_id}", self.cancel),
            web.post("/cancel/{request_id}", self.cancel),
        ]

    async def health(self, http: web.Request) -> web.StreamResponse:
        """GET `/`, `/health`, `/ping`."""
        reason = self._dispatcher.view.unhealthy_reason()
        return web.Response() if reason is None else self._unhealthy(reason, {})

    async def ready(self, http: web.Request) -> web.StreamResponse:
        """GET `/health/ready`: like `/health`, with the reason."""
        reason = self._dispatcher.view.unhealthy_reason()
        return web.Response() if reason is None else self._unhealthy(reason, {"reason": reason})

    async def live(self, http: web.Request) -> web.StreamResponse:
        """GET `/health/live`: 200 while the event loop runs."""
        return web.Response()

    async def info(self, http: web.Request) -> web.StreamResponse:
        """GET `/info`."""
        return json_response(
            response_bodies.info(
                self._server_info, self._bounds, self._dispatcher.view.scheduler_status()
            )
        )

    async def request_status(self, http: web.Request) -> web.StreamResponse:
        """GET `/requests/{request_id}`: its expected wait, and the service it has received."""
        request_id = http[PATH_PARAMETERS]["request_id"]
        statuses = self._dispatcher.view.request_statuses(request_id, http[CALLER])
        if not statuses:
            raise NotFound
        return json_response(scheduler_status.request_status(request_id, statuses))

    async def cancel(self, http: web.Request) -> web.StreamResponse:
        """DELETE `/requests/{request_id}`, POST `/cancel/{request_id}`: end it."""
        request_id = http[PATH_PARAMETERS]["request_id"]
        cancelled = self._dispatcher.cancel(request_id, http[CALLER])
        if not cancelled:
            raise NotFound
        return json_response({"request_id": request_id, "cancelled": cancelled})

    async def metrics(self, http: web.Request) -> web.StreamResponse:
        """GET `/metrics`."""
        counts, view = http.app[CONNECTION_COUNTS], self._dispatcher.view
        self._metrics.update_gauges(view.scheduler_status())
        self._metrics.update_admission(
            view.permits_held, view.paused_count, counts.open, counts.refused
        )
        body = self._metrics.render()
        return web.Response(body=body, content_type="text/plain", charset="utf-8")

    def _unhealthy(self, reason: str, extra: dict[str, str]) -> web.Response:
        restarts = reason == "restarting"
        headers = retry_after(self._dispatcher.view.seconds_to_restart()) if restarts else {}
        body = {"error": "unhealthy", "error_type": "healthcheck", **extra}
        return json_response(body, headers, 503)
