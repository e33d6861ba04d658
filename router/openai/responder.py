"""How a generation is sent: as one response, or as a stream of the events of its formatter.

A stream ends with `[DONE]` where its formatter says so, also after an error, and the events of one
token are sent together. Knows no API's bodies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from aiohttp import web

from router.errors import IncompleteGeneration, RouterError
from router.http.gateway import Gateway
from router.http.json_response import dump_json, estimated_json_bytes, json_response_offloaded
from router.http.sse import ClientDisconnected, EventStream
from router.offload import offload
from router.openai import shape as shapes
from router.openai.generation import OpenAIGeneration
from router.openai.shape import ResponseFormatter
from router.requests.record import LiveRequest
from router.server_info import ServerInfo

DONE = b"[DONE]"

Precheck = Callable[[], Awaitable[OpenAIGeneration]]


class Responder:
    """Runs generations through one gateway."""

    def __init__(self, gateway: Gateway, server_info: ServerInfo) -> None:
        self._gateway, self._server_info = gateway, server_info

    async def respond(
        self, http: web.Request, precheck: Precheck, *, stream: bool
    ) -> web.StreamResponse:
        """The response to what `precheck` returns, which has been sent if it is a stream.

        Raises RouterError for an error before the headers.
        """
        respond = self._stream if stream else self._respond
        return await respond(http, precheck)

    async def _respond(self, http: web.Request, precheck: Precheck) -> web.StreamResponse:
        async with self._gateway.run(http, precheck) as (generation, records):
            response = await full_response(generation, records)
        headers = shapes.tgi_headers(
            records,
            self._server_info,
            generation.choices_per_prompt,
            send_compute_time=generation.send_compute_time,
        )
        return await json_response_offloaded(response, headers, estimated_json_bytes(records))

    async def _stream(self, http: web.Request, precheck: Precheck) -> web.StreamResponse:
        stream: EventStream | None = None
        try:
            async with self._gateway.run(http, precheck) as (generation, records):
                headers = shapes.stream_headers(
                    records, self._server_info, generation.choices_per_prompt
                )
                async with self._gateway.event_stream(http, headers) as stream:
                    await _stream_events(stream, generation.new_formatter(records), records)
        except (RouterError, ClientDisconnected):
            if stream is None:
                raise
        return stream.response


async def full_response(
    generation: OpenAIGeneration, records: Sequence[LiveRequest]
) -> dict[str, Any]:
    """The whole response, once all records have ended."""
    for record in records:
        await record.wait()
        _require_finished(record)
    formatter = generation.new_formatter(records)
    return await offload(estimated_json_bytes(records), formatter.full_response)


async def _stream_events(
    stream: EventStream, formatter: ResponseFormatter, records: Sequence[LiveRequest]
) -> None:
    try:
        await _write_events(stream, formatter, formatter.start_events())
        await _stream_choices(stream, formatter, records)
        await _write_events(stream, formatter, formatter.final_events())
    except RouterError as error:
        await _write_events(stream, formatter, [formatter.error_event(error.in_stream())])
        await _write_done(stream, formatter)
        raise
    await _write_done(stream, formatter)


async def _write_done(stream: EventStream, formatter: ResponseFormatter) -> None:
    if formatter.ends_with_done:
        await stream.write(DONE)


async def _stream_choices(
    stream: EventStream, formatter: ResponseFormatter, records: Sequence[LiveRequest]
) -> None:
    """Stream all choices at the same time; the first that fails ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for index, record in enumerate(records):
                group.create_task(_stream_choice(stream, formatter, index, record))
    except BaseExceptionGroup as faults:
        raise faults.exceptions[0] from None


async def _stream_choice(
    stream: EventStream, formatter: ResponseFormatter, index: int, record: LiveRequest
) -> None:
    async for number in record.numbers():
        # the first token's events may report the whole prompt
        size = estimated_json_bytes([record]) if number == 1 else 0
        events = await offload(size, _token_events, formatter, index, number)
        await _write_events(stream, formatter, events)
    _require_finished(record)


def _token_events(formatter: ResponseFormatter, index: int, number: int) -> list[dict[str, Any]]:
    return list(formatter.token_events(index, number))


async def _write_events(
    stream: EventStream, formatter: ResponseFormatter, events: Iterable[dict[str, Any]]
) -> None:
    for event in events:
        await stream.write(dump_json(event), event["type"] if formatter.names_events else None)


def _require_finished(record: LiveRequest) -> None:
    if record.finish_reason is None or not record.tokens:
        raise IncompleteGeneration
