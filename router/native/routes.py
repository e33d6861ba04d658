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
    IncompleteGeneration,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
    RouterError,
    Unavailable,
    UnsupportedMediaType,
    native_error,
)
from router.http import json_response
from router.http.context import RECORDS, REQUEST_ID, Timeouts
from router.http.json_body import MAX_BODY_VALUES, AnyBody, parse_body
from router.http.json_response import estimated_json_bytes, json_response_offloaded
from router.http.sse import ClientDisconnected, EventStream, open_event_stream
from router.native import response_bodies
from router.native.request_models import CompatGenerateRequest, GenerateRequest
from router.native.status_routes import StatusRoutes
from router.native.validation import precheck, validate
from router.observability.metrics import Metrics
from router.offload import offload
from router.requests.record import LiveRequest
from router.requests.request import Request, ResolvedLimits, expand_best_of
from router.server_info import ServerInfo
from router.text import grammar
from router.text.grammar import GrammarCompiler

PreparedRequests = tuple[Sequence[Request], Callable[[Request], Awaitable[Request]]]
"""Requests, and what is left to do to each once its prompt fits: the grammar."""
_JSON_CONTENT_TYPE = re.compile(r"application/([^/]+\+)?json", re.IGNORECASE)


class Gateway:
    """The native routes over one dispatcher."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        metrics: Metrics,
        bounds: ResolvedLimits,
        server_info: ServerInfo,
        timeouts: Timeouts,
        grammar_compiler: GrammarCompiler,
    ) -> None:
        self.bounds, self.timeouts = bounds, timeouts
        self._dispatcher, self._metrics, self._server_info = dispatcher, metrics, server_info
        self._grammar_compiler = grammar_compiler

    def routes(self) -> list[web.RouteDef]:
        """Path by path."""
        return [
            web.post("/", self.compat_generate),
            web.post("/generate", self.generate),
            web.post("/generate_stream", self.generate_stream),
            *StatusRoutes(self._dispatcher, self._metrics, self.bounds, self._server_info).routes(),
        ]

    async def compat_generate(self, http: web.Request) -> web.StreamResponse:
        """POST `/`: an array of one, or a stream."""
        body = await self.read_body(http, CompatGenerateRequest)
        full_text = self._server_info.pipeline_tag in (None, "text-generation")
        if body.stream:
            return await self._stream(http, body, full_text)
        return await self._respond(http, body, full_text, as_list=True)

    async def generate(self, http: web.Request) -> web.StreamResponse:
        """POST `/generate`."""
        body = await self.read_body(http, GenerateRequest)
        return await self._respond(http, body, full_text=False, as_list=False)

    async def generate_stream(self, http: web.Request) -> web.StreamResponse:
        """POST `/generate_stream`."""
        body = await self.read_body(http, GenerateRequest)
        return await self._stream(http, body, full_text=False)

    async def read_body(self, http: web.Request, model: type[AnyBody]) -> AnyBody:
        """What the body says. Raises RouterError."""
        payload = await self.read_payload(http)
        return await offload(len(payload), parse_body, payload, model, self.max_values)

    @property
    def max_values(self) -> int:
        """Of one body; a whole prompt may be given as token ids."""
        return MAX_BODY_VALUES + self.bounds.max_total_tokens

    async def read_payload(self, http: web.Request) -> bytes:
        """The body, within the limits of state, type, size and time. Raises RouterError."""
        reason, limit = self._dispatcher.unhealthy_reason(), self.bounds.payload_limit
        if reason in ("draining", "failed"):
            draining = reason == "draining"
            raise Unavailable("Server is shutting down" if draining else "Model is unavailable")
        if not _JSON_CONTENT_TYPE.fullmatch(http.content_type):
            raise UnsupportedMediaType
        if http.content_length is not None and http.content_length > limit:
            raise PayloadTooLarge
        try:
            async with asyncio.timeout(self.timeouts.body):
                return await http.read()
        except TimeoutError as fault:
            raise RequestTimeout from fault
        except web.RequestPayloadError as fault:
            raise BadRequest from fault

    async def _respond(
        self, http: web.Request, body: GenerateRequest, full_text: bool, *, as_list: bool
    ) -> web.StreamResponse:
        async with self.open(http, body, stream=False) as records:
            best, answer = await self.collect_response(records, full_text)
        told = [answer] if as_list else answer
        return await json_response_offloaded(
            told,
            response_bodies.response_headers(best, self._server_info),
            estimated_json_bytes(records),
        )

    async def collect_response(
        self, records: Sequence[LiveRequest], full_text: bool
    ) -> tuple[LiveRequest, dict[str, Any]]:
        """The best of `records` once all have ended, and the body that tells it."""
        for record in records:
            async for _ in record.stream():
                pass
        best, *others = sorted(records, key=_by_likelihood)
        tell = partial(
            response_bodies.generate_response,
            full_text=_wants_full_text(best, full_text),
            others=others,
        )
        return best, await offload(estimated_json_bytes(records), tell, best, self._server_info)

    async def _stream(
        self, http: web.Request, body: GenerateRequest, full_text: bool
    ) -> web.StreamResponse:
        stream: EventStream | None = None
        try:
            async with (
                self.open(http, body, stream=True) as (record,),
                self.event_stream(
                    http, response_bodies.stream_headers(record, self._server_info)
                ) as stream,
            ):
                await self._write_events(stream, record, _wants_full_text(record, full_text))
        except (RouterError, ClientDisconnected):
            if stream is None:
                raise
        return stream.response

    async def _write_events(
        self, stream: EventStream, record: LiveRequest, full_text: bool
    ) -> None:
        try:
            index = 0
            async for _ in record.stream():
                index += 1
                event = response_bodies.stream_event(
                    index, record, self._server_info, full_text=full_text
                )
                await stream.write(json_response.dump_json(event))
            if record.finish_reason is None or not index:
                raise IncompleteGeneration
        except RouterError as error:
            await stream.write(json_response.dump_json(native_error(error.in_stream())))
            raise

    @asynccontextmanager
    async def open(
        self, http: web.Request, body: GenerateRequest, *, stream: bool
    ) -> AsyncIterator[Sequence[LiveRequest]]:
        """The rest of the checks, then live records."""
        async with self.run_requests(http, lambda: self._prepare(body, stream)) as records:
            yield records

    async def _prepare(self, body: GenerateRequest, stream: bool) -> PreparedRequests:
        precheck(body.parameters, self.bounds, stream=stream)
        self.require_permit()
        request = validate(body, self.bounds, stream=stream)
        given = body.parameters.grammar

        async def complete(request: Request) -> Request:
            source = None if given is None else grammar.parse_grammar(given.type, given.value)
            return replace(request, grammar=await self.compile_grammar(source))

        return expand_best_of(request, request.best_of), complete

    async def compile_grammar(self, source: grammar.GrammarSource | None) -> str | None:
        """llguidance's form of `source`. Raises ValidationError."""
        return await self._grammar_compiler.compile(source)

    def require_permit(self) -> None:
        """Raises Overloaded if none is free."""
        if self._dispatcher.full:
            raise Overloaded

    @asynccontextmanager
    async def run_requests(
        self, http: web.Request, prepare: Callable[[], Awaitable[PreparedRequests]]
    ) -> AsyncIterator[Sequence[LiveRequest]]:
        """Live records of what `wanted` allows; counts how their HTTP request ends."""
        records: Sequence[LiveRequest] = ()
        err: str | None = "incomplete"
        self._metrics.request_started()
        try:
            requests, complete = await prepare()
            async with self._dispatcher.open_all(requests, http[REQUEST_ID], complete) as records:
                http[RECORDS].extend(records)
                yield records
            err = None
        except RouterError as error:
            err = error.label
            raise
        except (asyncio.CancelledError, ClientDisconnected):
            err = "dropped"
            raise
        finally:
            self._metrics.request_ended(min(records, key=_by_likelihood, default=None), err)

    def event_stream(
        self, http: web.Request, headers: Mapping[str, str]
    ) -> AbstractAsyncContextManager[EventStream]:
        """A stream of events."""
        headers = {**headers, "x-request-id": http[REQUEST_ID]}
        return open_event_stream(
            http, headers, interval=self.timeouts.comment_interval, stall=self.timeouts.stall
        )


def _by_likelihood(record: LiveRequest) -> float:
    return -record.mean_logprob


def _wants_full_text(record: LiveRequest, default: bool) -> bool:
    asked = record.request.return_full_text
    return default if asked is None else asked
