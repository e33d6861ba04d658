"""The native routes that generate: the order of a generation's checks, and its life.

A request that fails before generation has its real status, streaming or not. The whole life of a
generation lies inside `async with dispatcher.open(...)`, which a client that leaves ends too: the
server then cancels the handler. Shapes are `native`'s, rules are `request`'s.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from aiohttp import web

from router.dispatch.dispatcher import Dispatcher
from router.errors import (
    BadRequest,
    Incomplete,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    RouterError,
    Unavailable,
    UnsupportedMediaType,
    flat,
)
from router.http import json_response
from router.http.context import RECORDS, REQUEST_ID, Patience
from router.http.json_body import MOST_VALUES, AnyBody, read
from router.http.json_response import reply_aside, weight
from router.http.sse import ClientGone, EventStream, events
from router.native import response_bodies
from router.native.request_models import CompatGenerate, Generate
from router.native.status_routes import Probes
from router.native.validation import precheck, validate
from router.observability.metrics import Metrics
from router.offload import aside
from router.requests.record import Record
from router.requests.request import Bounds, Request, sequences
from router.server_info import About
from router.text import grammar
from router.text.grammar import Grammars

Wanted = tuple[Sequence[Request], Callable[[Request], Awaitable[Request]]]
"""Requests, and what is left to do to each once its prompt fits: the grammar."""
_JSON = re.compile(r"application/([^/]+\+)?json", re.IGNORECASE)


class Front:
    """The native routes over one dispatcher."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        metrics: Metrics,
        bounds: Bounds,
        about: About,
        patience: Patience,
        grammars: Grammars,
    ) -> None:
        self.bounds, self.patience = bounds, patience
        self._dispatcher, self._metrics, self._about = dispatcher, metrics, about
        self._grammars = grammars

    def routes(self) -> list[web.RouteDef]:
        """Path by path."""
        return [
            web.post("/", self.compat_generate),
            web.post("/generate", self.generate),
            web.post("/generate_stream", self.generate_stream),
            *Probes(self._dispatcher, self._metrics, self.bounds, self._about).routes(),
        ]

    async def compat_generate(self, http: web.Request) -> web.StreamResponse:
        """POST `/`: an array of one, or a stream."""
        body = await self.body(http, CompatGenerate)
        full_text = self._about.pipeline_tag in (None, "text-generation")
        if body.stream:
            return await self._stream(http, body, full_text)
        return await self._whole(http, body, full_text, as_list=True)

    async def generate(self, http: web.Request) -> web.StreamResponse:
        """POST `/generate`."""
        body = await self.body(http, Generate)
        return await self._whole(http, body, full_text=False, as_list=False)

    async def generate_stream(self, http: web.Request) -> web.StreamResponse:
        """POST `/generate_stream`."""
        body = await self.body(http, Generate)
        return await self._stream(http, body, full_text=False)

    async def body(self, http: web.Request, kind: type[AnyBody]) -> AnyBody:
        """What the body says. Raises RouterError."""
        payload = await self.payload(http)
        return await aside(len(payload), read, payload, kind, self.most_values)

    @property
    def most_values(self) -> int:
        """Of one body; a whole prompt may be given as token ids."""
        return MOST_VALUES + self.bounds.max_total_tokens

    async def payload(self, http: web.Request) -> bytes:
        """The body, within the limits of state, type, size and time. Raises RouterError."""
        reason, limit = self._dispatcher.healthy(), self.bounds.payload_limit
        if reason in ("draining", "failed"):
            draining = reason == "draining"
            raise Unavailable("Server is shutting down" if draining else "Model is unavailable")
        if not _JSON.fullmatch(http.content_type):
            raise UnsupportedMediaType
        if http.content_length is not None and http.content_length > limit:
            raise PayloadTooLarge
        try:
            async with asyncio.timeout(self.patience.body):
                return await http.read()
        except TimeoutError as fault:
            raise RequestTimeout from fault
        except web.RequestPayloadError as fault:
            raise BadRequest from fault

    async def _whole(
        self, http: web.Request, body: Generate, full_text: bool, *, as_list: bool
    ) -> web.StreamResponse:
        async with self.open(http, body, stream=False) as records:
            best, answer = await self.answer(records, full_text)
        told = [answer] if as_list else answer
        return await reply_aside(told, response_bodies.headers(best, self._about), weight(records))

    async def answer(
        self, records: Sequence[Record], full_text: bool
    ) -> tuple[Record, dict[str, Any]]:
        """The best of `records` once all have ended, and the body that tells it."""
        for record in records:
            async for _ in record.stream():
                pass
        best, *others = sorted(records, key=_likeliest_first)
        tell = partial(response_bodies.answer, full_text=_full(best, full_text), others=others)
        return best, await aside(weight(records), tell, best, self._about)

    async def _stream(
        self, http: web.Request, body: Generate, full_text: bool
    ) -> web.StreamResponse:
        stream: EventStream | None = None
        try:
            async with (
                self.open(http, body, stream=True) as (record,),
                self.events(http, response_bodies.stream_headers(record, self._about)) as stream,
            ):
                await self._tell(stream, record, _full(record, full_text))
        except (RouterError, ClientGone):
            if stream is None:
                raise
        return stream.response

    async def _tell(self, stream: EventStream, record: Record, full_text: bool) -> None:
        try:
            index = 0
            async for _ in record.stream():
                index += 1
                event = response_bodies.event(index, record, self._about, full_text=full_text)
                await stream.write(json_response.dump(event))
            if record.finish_reason is None or not index:
                raise Incomplete
        except RouterError as error:
            await stream.write(json_response.dump(flat(error.in_stream())))
            raise

    @asynccontextmanager
    async def open(
        self, http: web.Request, body: Generate, *, stream: bool
    ) -> AsyncIterator[Sequence[Record]]:
        """The rest of the checks, then live records."""
        async with self.life(http, lambda: self._wanted(body, stream)) as records:
            yield records

    async def _wanted(self, body: Generate, stream: bool) -> Wanted:
        precheck(body.parameters, self.bounds, stream=stream)
        self.require_permit()
        request = validate(body, self.bounds, stream=stream)
        given = body.parameters.grammar

        async def complete(request: Request) -> Request:
            source = None if given is None else grammar.read(given.type, given.value)
            return replace(request, grammar=await self.compiled(source))

        return sequences(request, request.best_of), complete

    async def compiled(self, source: grammar.Source | None) -> str | None:
        """llguidance's form of `source`. Raises Invalid."""
        return await self._grammars.compile(source)

    def require_permit(self) -> None:
        """Raises Overloaded if none is free."""
        if self._dispatcher.full:
            raise Overloaded

    @asynccontextmanager
    async def life(
        self, http: web.Request, wanted: Callable[[], Awaitable[Wanted]]
    ) -> AsyncIterator[Sequence[Record]]:
        """Live records of what `wanted` allows; counts how their HTTP request ends."""
        records: Sequence[Record] = ()
        err: str | None = "incomplete"
        self._metrics.request_started()
        try:
            requests, complete = await wanted()
            async with self._dispatcher.open_all(requests, http[REQUEST_ID], complete) as records:
                http[RECORDS].extend(records)
                yield records
            err = None
        except RouterError as error:
            err = error.label
            raise
        except (asyncio.CancelledError, ClientGone):
            err = "dropped"
            raise
        finally:
            self._metrics.request_ended(min(records, key=_likeliest_first, default=None), err)

    def events(
        self, http: web.Request, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[EventStream]:
        """A stream of events."""
        headers = {**headers, "x-request-id": http[REQUEST_ID]}
        return events(http, headers, interval=self.patience.comment, stall=self.patience.stall)


def _likeliest_first(record: Record) -> float:
    return -record.mean_logprob


def _full(record: Record, default: bool) -> bool:
    asked = record.request.return_full_text
    return default if asked is None else asked
