"""What every generating route needs of HTTP: the body within its limits, live requests, a stream.

Rule: knows no API's bodies or answers. A generation's whole life lies inside `async with
gateway.run(...)`, which a client that disconnects ends too: the server then cancels the handler.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from router.dispatch.dispatcher import Dispatcher
from router.dispatch.intake import AnyGeneration, Intake
from router.errors import RouterError, Unavailable
from router.http.content_encoding import decompress, require_supported
from router.http.context import CACHE_SCOPE, CALLER, RECORDS, REQUEST_ID
from router.http.http_errors import (
    BadRequest,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)
from router.http.json_body import MAX_BODY_VALUES, AnyBody, parse_body
from router.http.sse import ClientDisconnected, EventStream, open_event_stream
from router.observability.metrics import Metrics
from router.offload import offload
from router.requests.record import LiveRequest, by_likelihood
from router.requests.request import ResolvedLimits

_JSON_CONTENT_TYPE = re.compile(r"application/([^/]+\+)?json", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds that the server waits for a client."""

    body: float = 30.0
    """For the whole body."""
    comment_interval: float = 15.0
    """Between the events of a stream, before a comment."""
    stall: float = 30.0
    """For the client to read from a stream."""
    keepalive: float = 15.0
    """For the next request of a connection."""
    linger: float = 2.0
    """For the rest of a rejected body, so that its sender gets to read the response."""


class Gateway:
    """The HTTP side of one intake."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        intake: Intake,
        metrics: Metrics,
        bounds: ResolvedLimits,
        timeouts: Timeouts,
    ) -> None:
        self.bounds = bounds
        self.adapters = dispatcher.adapters
        """The adapters that requests may choose."""
        self._dispatcher, self._intake, self._metrics = dispatcher, intake, metrics
        self._timeouts = timeouts

    async def read_body(self, http: web.Request, model: type[AnyBody]) -> AnyBody:
        """The parsed body. Raises RouterError."""
        payload = await self.read_payload(http)
        return await offload(len(payload), parse_body, payload, model, self.max_values)

    @property
    def max_values(self) -> int:
        """Maximum number of JSON values in a body; a whole prompt may come as token ids."""
        return MAX_BODY_VALUES + self.bounds.max_total_tokens

    async def read_payload(self, http: web.Request) -> bytes:
        """The body's bytes: state, media type, coding, size and time are
        checked. Raises RouterError."""
        self._require_serving()
        if not _JSON_CONTENT_TYPE.fullmatch(http.content_type):
            raise UnsupportedMediaType
        if http.content_length is not None and http.content_length > self.bounds.payload_limit:
            raise PayloadTooLarge
        coding = require_supported(http.headers.get("Content-Encoding", ""))
        try:
            async with asyncio.timeout(self._timeouts.body):
                body = await http.read()
        except TimeoutError as fault:
            raise RequestTimeout from fault
        except web.RequestPayloadError as fault:
            raise BadRequest from fault
        return await offload(len(body), decompress, body, coding, self.bounds.payload_limit)

    def _require_serving(self) -> None:
        reason = self._dispatcher.view.unhealthy_reason()
        if reason == "draining":
            raise Unavailable("Server is shutting down")
        if reason == "failed":
            raise Unavailable("Model is unavailable")

    def hold_permit(self) -> AbstractContextManager[None]:
        """A permit for work that generates nothing. Raises Overloaded or Unavailable."""
        return self._dispatcher.hold_permits(1)

    @asynccontextmanager
    async def run(
        self, http: web.Request, precheck: Callable[[], Awaitable[AnyGeneration]]
    ) -> AsyncIterator[tuple[AnyGeneration, Sequence[LiveRequest]]]:
        """What `precheck` returned and its live requests; counts how the HTTP request ends."""
        records: Sequence[LiveRequest] = ()
        err: str | None = "incomplete"
        self._metrics.request_started()
        try:
            opened = self._intake.open(http[REQUEST_ID], precheck, http[CACHE_SCOPE], http[CALLER])
            async with opened as (generation, records):
                http[RECORDS].extend(records)
                yield generation, records
            err = None
        except RouterError as error:
            err = error.label
            raise
        except (asyncio.CancelledError, ClientDisconnected):
            err = "dropped"
            raise
        finally:
            self._metrics.request_ended(min(records, key=by_likelihood, default=None), err)

    def event_stream(
        self, http: web.Request, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[EventStream]:
        """Send the head of a stream of events, and then keep the connection alive."""
        headers = {**headers, "x-request-id": http[REQUEST_ID]}
        return open_event_stream(
            http, headers, interval=self._timeouts.comment_interval, stall=self._timeouts.stall
        )
