"""The native routes that generate or tokenize.

A request that fails before generation has its real status, streaming or not. The intake decides the
order of the checks, `validation` the rules, and `response_bodies` what a response holds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

from aiohttp import web

from router.errors import IncompleteGeneration, RouterError, native_error
from router.http.gateway import Gateway
from router.http.json_response import (
    dump_json,
    estimated_json_bytes,
    json_response_offloaded,
    json_response_streamed,
)
from router.http.sse import ClientDisconnected, EventStream
from router.native import response_bodies
from router.native.generation import NativeGeneration, check_native
from router.native.request_models import CompatGenerateRequest, GenerateRequest
from router.offload import offload
from router.requests.record import LiveRequest, by_likelihood
from router.server_info import ServerInfo
from router.text.encoder import Encoder


class NativeRoutes:
    """The routes over one gateway."""

    def __init__(self, gateway: Gateway, server_info: ServerInfo, encoder: Encoder) -> None:
        self._gateway, self._server_info, self._encoder = gateway, server_info, encoder

    def routes(self) -> list[web.RouteDef]:
        """The routes, in the order in which they are documented."""
        return [
            web.post("/", self.compat_generate),
            web.post("/generate", self.generate),
            web.post("/generate_stream", self.generate_stream),
            web.post("/tokenize", self.tokenize),
        ]

    async def compat_generate(self, http: web.Request) -> web.StreamResponse:
        """POST `/`: an array of one, or a stream."""
        body = await self._gateway.read_body(http, CompatGenerateRequest)
        full_text = self._server_info.pipeline_tag in (None, "text-generation")
        if body.stream:
            return await self._stream(http, body, full_text)
        return await self._respond(http, body, full_text, as_list=True)

    async def generate(self, http: web.Request) -> web.StreamResponse:
        """POST `/generate`."""
        body = await self._gateway.read_body(http, GenerateRequest)
        return await self._respond(http, body, full_text=False, as_list=False)

    async def generate_stream(self, http: web.Request) -> web.StreamResponse:
        """POST `/generate_stream`."""
        body = await self._gateway.read_body(http, GenerateRequest)
        return await self._stream(http, body, full_text=False)

    async def tokenize(self, http: web.Request) -> web.StreamResponse:
        """POST `/tokenize`: the tokens of `inputs`; no parameter matters."""
        body = await self._gateway.read_body(http, GenerateRequest)
        with self._gateway.hold_permit():
            tokens = await self._encoder.tokens_with_offsets(body.inputs)
        return json_response_streamed(tokens)

    @asynccontextmanager
    async def running_text(
        self, http: web.Request, body: GenerateRequest
    ) -> AsyncIterator[Callable[[], Awaitable[str]]]:
        """A running generation, and a function that waits for its text."""
        async with self._run(http, body, stream=False) as (_, records):

            async def text() -> str:
                _, response = await self._response_body(records, full_text=False)
                return str(response["generated_text"])

            yield text

    def _run(
        self, http: web.Request, body: GenerateRequest, *, stream: bool
    ) -> AbstractAsyncContextManager[tuple[NativeGeneration, Sequence[LiveRequest]]]:
        precheck = partial(
            check_native, body, self._gateway.bounds, self._gateway.adapters, stream=stream
        )
        return self._gateway.run(http, precheck)

    async def _respond(
        self, http: web.Request, body: GenerateRequest, full_text: bool, *, as_list: bool
    ) -> web.StreamResponse:
        async with self._run(http, body, stream=False) as (_, records):
            best, response = await self._response_body(records, full_text)
        return await json_response_offloaded(
            [response] if as_list else response,
            response_bodies.response_headers(best, self._server_info),
            estimated_json_bytes(records),
        )

    async def _response_body(
        self, records: Sequence[LiveRequest], full_text: bool
    ) -> tuple[LiveRequest, dict[str, Any]]:
        """The most likely of `records` once all have ended, and the body that reports it."""
        for record in records:
            await record.wait()
        best, *others = sorted(records, key=by_likelihood)
        build = partial(
            response_bodies.generate_response,
            full_text=_wants_full_text(best, full_text),
            others=others,
        )
        return best, await offload(estimated_json_bytes(records), build, best, self._server_info)

    async def _stream(
        self, http: web.Request, body: GenerateRequest, full_text: bool
    ) -> web.StreamResponse:
        stream: EventStream | None = None
        try:
            async with self._run(http, body, stream=True) as (_, (record,)):
                headers = response_bodies.stream_headers(record, self._server_info)
                async with self._gateway.event_stream(http, headers) as stream:
                    await self._write_events(stream, record, _wants_full_text(record, full_text))
        except (RouterError, ClientDisconnected):
            if stream is None:
                raise
        return stream.response

    async def _write_events(
        self, stream: EventStream, record: LiveRequest, full_text: bool
    ) -> None:
        try:
            async for number in record.numbers():
                event = response_bodies.stream_event(
                    number, record, self._server_info, full_text=full_text
                )
                await stream.write(dump_json(event))
            if record.finish_reason is None or not record.tokens:
                raise IncompleteGeneration
        except RouterError as error:
            await stream.write(dump_json(native_error(error.in_stream())))
            raise


def _wants_full_text(record: LiveRequest, default: bool) -> bool:
    requested = record.request.return_full_text
    return default if requested is None else requested
