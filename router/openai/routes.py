"""OpenAI's routes: from a body to live requests, and from these to a response or a stream.

A stream of chats or completions ends with `[DONE]`, also after an error, and one event is sent for
each token. The content of requests and responses lies in one file for each route; here are only the
order and the sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from aiohttp import web

from router.errors import IncompleteGeneration, ModelNotFound, RouterError
from router.http.context import PATH_PARAMETERS
from router.http.gateway import Gateway
from router.http.json_response import (
    dump_json,
    estimated_json_bytes,
    json_response,
    json_response_offloaded,
    json_response_streamed,
)
from router.http.sse import ClientDisconnected, EventStream
from router.offload import offload
from router.openai import shape as shapes
from router.openai.chat_prompt import ChatPromptBuilder
from router.openai.generation import GenerationBuilder, OpenAIGeneration, body_bytes
from router.openai.request_models import ChatRequest, CompletionRequest
from router.openai.responses_request import ResponsesRequest
from router.openai.sampling_defaults import SamplingDefaults
from router.openai.shape import ResponseFormatter
from router.requests.record import LiveRequest
from router.server_info import ServerInfo
from router.text.encoder import Encoder

PREFIX = "/v1"
"""Of the paths whose errors have OpenAI's form, unknown ones included."""
DONE = b"[DONE]"
DEFAULT_MODEL = "tgi"
"""Stands for the served model."""

Precheck = Callable[[], Awaitable[OpenAIGeneration]]


class OpenAIRoutes:
    """The routes over one gateway."""

    def __init__(
        self,
        gateway: Gateway,
        server_info: ServerInfo,
        encoder: Encoder,
        vocabulary_size: int,
        prompt_builder: ChatPromptBuilder,
        defaults: SamplingDefaults,
    ) -> None:
        """`vocabulary_size`: number of the model's logits; token ids are below it."""
        self._gateway, self._server_info, self._encoder = gateway, server_info, encoder
        self._prompt_builder = prompt_builder
        self._generations = GenerationBuilder(
            gateway.bounds,
            server_info,
            encoder.tokenizer,
            vocabulary_size,
            prompt_builder,
            defaults,
        )

    def routes(self) -> list[web.RouteDef]:
        """The routes below `PREFIX`."""
        return [
            web.get(f"{PREFIX}/models", self.models),
            web.get(f"{PREFIX}/models/{{model:.+}}", self.model),
            web.post(f"{PREFIX}/chat/completions", self.chat),
            web.post(f"{PREFIX}/completions", self.completions),
            web.post(f"{PREFIX}/responses", self.responses),
        ]

    def tgi_routes(self) -> list[web.RouteDef]:
        """TGI's route for chats; its errors have the native form."""
        return [web.post("/chat_tokenize", self.chat_tokenize)]

    async def models(self, http: web.Request) -> web.StreamResponse:
        """GET `/v1/models`: the served model."""
        return json_response({"object": "list", "data": [self._model_object()]})

    async def model(self, http: web.Request) -> web.StreamResponse:
        """GET `/v1/models/{model}`: the served model, whose name may contain slashes."""
        if http[PATH_PARAMETERS]["model"] not in (self._server_info.model_id, DEFAULT_MODEL):
            raise ModelNotFound(http[PATH_PARAMETERS]["model"])
        return json_response(self._model_object())

    def _model_object(self) -> dict[str, Any]:
        name = self._server_info.model_id
        return {"id": name, "object": "model", "created": 0, "owned_by": name}

    async def chat(self, http: web.Request) -> web.StreamResponse:
        """POST `/v1/chat/completions`."""
        body = await self._gateway.read_body(http, ChatRequest)
        precheck = partial(self._generations.chat, http, body)
        return await self._serve(http, precheck, stream=body.stream)

    async def completions(self, http: web.Request) -> web.StreamResponse:
        """POST `/v1/completions`."""
        body = await self._gateway.read_body(http, CompletionRequest)
        precheck = partial(self._generations.completion, http, body)
        return await self._serve(http, precheck, stream=body.stream)

    async def responses(self, http: web.Request) -> web.StreamResponse:
        """POST `/v1/responses`."""
        body = await self._gateway.read_body(http, ResponsesRequest)
        precheck = partial(self._generations.response, http, body)
        return await self._serve(http, precheck, stream=body.stream)

    async def chat_tokenize(self, http: web.Request) -> web.StreamResponse:
        """POST `/chat_tokenize`: a chat's text, and its tokens."""
        body = await self._gateway.read_body(http, ChatRequest)
        with self._gateway.hold_permit():
            text = (await self._prompt_builder.build(body, body_bytes(http))).text
            tokens = await self._encoder.tokens_with_offsets(text, add_special_tokens=False)
        head, tail = b'{"tokenize_response":', b',"templated_text":' + dump_json(text) + b"}"
        return json_response_streamed([head, *tokens, tail])

    @asynccontextmanager
    async def running_text(
        self, http: web.Request, body: ChatRequest
    ) -> AsyncIterator[Callable[[], Awaitable[str]]]:
        """A running chat, and a function that waits for the text of its first choice."""
        precheck = partial(self._generations.chat, http, body)
        async with self._gateway.run(http, precheck) as (generation, records):

            async def text() -> str:
                response = await _full_response(generation, records)
                return str(response["choices"][0]["message"]["content"] or "")

            yield text

    async def _serve(
        self, http: web.Request, precheck: Precheck, *, stream: bool
    ) -> web.StreamResponse:
        respond = self._stream if stream else self._respond
        return await respond(http, precheck)

    async def _respond(self, http: web.Request, precheck: Precheck) -> web.StreamResponse:
        async with self._gateway.run(http, precheck) as (generation, records):
            response = await _full_response(generation, records)
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


async def _full_response(
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
