"""OpenAI's routes: from a body to live Records, and from these to an answer or a stream.

A stream of chats or completions ends with `[DONE]`, also after an error, and one event goes out for
each token. What is asked and how it is told lies in one file for each route; here are only the
order and the sockets.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from aiohttp import web

from router.errors import IncompleteGeneration, RouterError
from router.http.context import REQUEST_ID
from router.http.json_response import (
    dump_json,
    estimated_json_bytes,
    json_response,
    json_response_offloaded,
    json_response_streamed,
)
from router.http.sse import ClientDisconnected, EventStream
from router.native.routes import Gateway, PreparedRequests
from router.offload import offload
from router.openai import chat, completions, responses
from router.openai import shape as shapes
from router.openai.chat_prompt import ChatPromptBuilder
from router.openai.request_models import ChatRequest, CommonParameters, CompletionRequest
from router.openai.responses_request import ResponsesRequest, to_chat_body
from router.openai.shape import ResponseFormatter, ResponseHeader
from router.requests.record import LiveRequest
from router.requests.request import Request
from router.server_info import ServerInfo
from router.text import grammar
from router.text.encoder import Encoder

DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class GenerationPlan:
    """What a valid body asks for, and how it will be told."""

    requests: Sequence[Request]
    new_formatter: Callable[[Sequence[LiveRequest]], ResponseFormatter]
    choices_per_prompt: int = 1
    """How many Requests in a row share a prompt."""
    grammar: grammar.GrammarSource | None = None
    send_compute_time: bool = False
    """Whether the headers tell `x-compute-time`, as TGI's do for chats."""


PlanFactory = Callable[[], Awaitable[GenerationPlan]]


class OpenAIRoutes:
    """The routes over one `front`."""

    def __init__(
        self,
        gateway: Gateway,
        server_info: ServerInfo,
        encoder: Encoder,
        vocabulary_size: int,
        prompt_builder: ChatPromptBuilder,
    ) -> None:
        """`size`: of the model's logits; token ids are below it."""
        self._gateway, self._server_info, self._prompt_builder = (
            gateway,
            server_info,
            prompt_builder,
        )
        self._encoder, self._vocabulary_size = encoder, vocabulary_size

    def routes(self) -> list[web.RouteDef]:
        """Path by path."""
        return [
            web.get("/v1/models", self.models),
            web.post("/v1/chat/completions", self.chat),
            web.post("/v1/completions", self.completions),
            web.post("/v1/responses", self.responses),
            web.post("/chat_tokenize", self.chat_tokenize),
        ]

    async def models(self, http: web.Request) -> web.StreamResponse:
        """GET `/v1/models`: the one that is served."""
        name = self._server_info.model_id
        model = {"id": name, "object": "model", "created": 0, "owned_by": name}
        return json_response({"object": "list", "data": [model]})

    async def chat(self, http: web.Request) -> web.StreamResponse:
        """POST `/v1/chat/completions`."""
        body = await self._gateway.read_body(http, ChatRequest)
        return await self._serve(http, lambda: self._plan_chat(http, body), stream=body.stream)

    async def completions(self, http: web.Request) -> web.StreamResponse:
        """POST `/v1/completions`."""
        body = await self._gateway.read_body(http, CompletionRequest)
        return await self._serve(
            http, lambda: self._plan_completion(http, body), stream=body.stream
        )

    async def responses(self, http: web.Request) -> web.StreamResponse:
        """POST `/v1/responses`."""
        body = await self._gateway.read_body(http, ResponsesRequest)
        return await self._serve(http, lambda: self._plan_response(http, body), stream=body.stream)

    async def chat_tokenize(self, http: web.Request) -> web.StreamResponse:
        """POST `/chat_tokenize`: a chat's text, and its tokens."""
        body = await self._gateway.read_body(http, ChatRequest)
        text = (await self._prompt_builder.build(body, _body_bytes(http))).text
        spans = await self._encoder.tokens_with_offsets(text, add_special_tokens=False)
        head, tail = (
            b'{"tokenize_response":',
            b',"templated_text":' + dump_json(text) + b"}",
        )
        return json_response_streamed([head, *spans, tail])

    @asynccontextmanager
    async def running_chat(
        self, http: web.Request, body: ChatRequest
    ) -> AsyncIterator[Callable[[], Awaitable[str]]]:
        """A chat that runs, and a function that waits for the text of its first answer."""
        async with self._live_requests(http, lambda: self._plan_chat(http, body)) as (
            plan,
            records,
        ):

            async def text() -> str:
                answer = await _full_response(plan, records)
                return str(answer["choices"][0]["message"]["content"] or "")

            yield text

    async def _plan_chat(self, http: web.Request, body: ChatRequest) -> GenerationPlan:
        prompt = await self._prompt_builder.build(body, _body_bytes(http))
        self._gateway.require_permit()
        requests = chat.build_requests(body, prompt, self._gateway.bounds, self._vocabulary_size)
        envelope = self._response_header(http, body)
        return GenerationPlan(
            requests=requests,
            new_formatter=lambda records: chat.ChatFormatter(
                body, prompt, records, envelope, self._server_info
            ),
            choices_per_prompt=len(requests),
            grammar=prompt.grammar,
            send_compute_time=True,
        )

    async def _plan_completion(self, http: web.Request, body: CompletionRequest) -> GenerationPlan:
        completions.parse_prompts(body, self._gateway.bounds)
        self._gateway.require_permit()
        decode = self._encoder.tokenizer.decode_without_gil
        values = body, self._gateway.bounds, self._vocabulary_size, decode
        requests = await offload(_body_bytes(http), completions.build_requests, *values)
        envelope = replace(self._response_header(http, body), model=self._server_info.model_id)
        return GenerationPlan(
            requests=requests,
            new_formatter=lambda records: completions.CompletionFormatter(
                body, records, envelope, self._server_info
            ),
            choices_per_prompt=body.n or 1,
        )

    async def _plan_response(self, http: web.Request, body: ResponsesRequest) -> GenerationPlan:
        asked = await offload(_body_bytes(http), to_chat_body, body)
        prompt = await self._prompt_builder.build(asked, _body_bytes(http))
        self._gateway.require_permit()
        envelope = self._response_header(http, asked)
        return GenerationPlan(
            requests=chat.build_requests(
                asked, prompt, self._gateway.bounds, self._vocabulary_size
            ),
            new_formatter=lambda records: responses.ResponsesApiFormatter(
                body, prompt.new_parser(), records[0], envelope
            ),
            grammar=prompt.grammar,
        )

    def _response_header(self, http: web.Request, body: CommonParameters) -> ResponseHeader:
        own = body.model in (None, "", "tgi")
        model = self._server_info.model_id if own else str(body.model)
        return ResponseHeader(http[REQUEST_ID], int(datetime.now(UTC).timestamp()), model)

    async def _serve(
        self, http: web.Request, make_plan: PlanFactory, *, stream: bool
    ) -> web.StreamResponse:
        if stream:
            return await self._stream(http, make_plan)
        async with self._live_requests(http, make_plan) as (plan, records):
            answer = await _full_response(plan, records)
        told = shapes.tgi_headers(
            records,
            self._server_info,
            plan.choices_per_prompt,
            send_compute_time=plan.send_compute_time,
        )
        return await json_response_offloaded(answer, told, estimated_json_bytes(records))

    async def _stream(self, http: web.Request, make_plan: PlanFactory) -> web.StreamResponse:
        stream: EventStream | None = None
        try:
            async with self._live_requests(http, make_plan) as (plan, records):
                headers = shapes.stream_headers(records, self._server_info, plan.choices_per_prompt)
                async with self._gateway.event_stream(http, headers) as stream:
                    await _stream_events(stream, plan.new_formatter(records), records)
        except (RouterError, ClientDisconnected):
            if stream is None:
                raise
        return stream.response

    @asynccontextmanager
    async def _live_requests(
        self, http: web.Request, make_plan: PlanFactory
    ) -> AsyncIterator[tuple[GenerationPlan, Sequence[LiveRequest]]]:
        plans: list[GenerationPlan] = []

        async def wanted() -> PreparedRequests:
            plan = await make_plan()
            plans.append(plan)
            return plan.requests, partial(self._with_compiled_grammar, plan)

        async with self._gateway.run_requests(http, wanted) as records:
            yield plans[0], records

    async def _with_compiled_grammar(self, plan: GenerationPlan, request: Request) -> Request:
        return replace(request, grammar=await self._gateway.compile_grammar(plan.grammar))


def _body_bytes(http: web.Request) -> float:
    """Bytes of a body whose values are still to be looked at."""
    return math.inf if http.content_length is None else http.content_length


async def _full_response(plan: GenerationPlan, records: Sequence[LiveRequest]) -> dict[str, Any]:
    """The whole, once all have ended."""
    for record in records:
        async for _ in record.stream():
            pass
        _require_finished(record)
    return await offload(estimated_json_bytes(records), plan.new_formatter(records).full_response)


async def _stream_events(
    stream: EventStream, formatter: ResponseFormatter, records: Sequence[LiveRequest]
) -> None:
    try:
        await _write_events(stream, formatter.start_events())
        await _stream_choices(stream, formatter, records)
        await _write_events(stream, formatter.final_events())
    except RouterError as error:
        await _write_events(stream, [formatter.error_event(error.in_stream())])
        await _write_done(stream, formatter)
        raise
    await _write_done(stream, formatter)


async def _write_done(stream: EventStream, formatter: ResponseFormatter) -> None:
    if formatter.ends_with_done:
        await stream.write(DONE)


async def _stream_choices(
    stream: EventStream, formatter: ResponseFormatter, records: Sequence[LiveRequest]
) -> None:
    """Tell all choices as their tokens come; the first that fails ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for index, record in enumerate(records):
                group.create_task(_stream_choice(stream, formatter, index, record))
    except BaseExceptionGroup as faults:
        raise faults.exceptions[0] from None


async def _stream_choice(
    stream: EventStream, formatter: ResponseFormatter, index: int, record: LiveRequest
) -> None:
    number = 0
    async for _ in record.stream():
        number += 1
        size = (
            estimated_json_bytes([record]) if number == 1 else 0
        )  # the first may tell the prompt too
        await _write_events(stream, await offload(size, _token_events, formatter, index, number))
    _require_finished(record)


def _token_events(formatter: ResponseFormatter, index: int, number: int) -> list[dict[str, Any]]:
    return list(formatter.token_events(index, number))


async def _write_events(stream: EventStream, events: Iterable[dict[str, Any]]) -> None:
    for event in events:
        await stream.write(dump_json(event))


def _require_finished(record: LiveRequest) -> None:
    if record.finish_reason is None or not record.tokens:
        raise IncompleteGeneration
