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

from router.errors import Incomplete, RouterError
from router.http import json_response
from router.http.context import REQUEST_ID
from router.http.json_response import reply, reply_aside, reply_in_parts, weight
from router.http.sse import ClientGone, EventStream
from router.native.routes import Front, Wanted
from router.offload import aside
from router.openai import chat, completions, responses
from router.openai import shape as shapes
from router.openai.chat_prompt import Prompts
from router.openai.request_models import ChatBody, CompletionBody, Sampled
from router.openai.responses_request import ResponsesBody, as_chat
from router.openai.shape import Envelope, Shape
from router.requests.record import Record
from router.requests.request import Request
from router.server_info import About
from router.text import grammar
from router.text.encoder import Encoder

DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a valid body asks for, and how it will be told."""

    requests: Sequence[Request]
    shape: Callable[[Sequence[Record]], Shape]
    choices: int = 1
    """How many Requests in a row share a prompt."""
    grammar: grammar.Source | None = None
    timed: bool = False
    """Whether the headers tell `x-compute-time`, as TGI's do for chats."""


Planning = Callable[[], Awaitable[Plan]]


class OpenAi:
    """The routes over one `front`."""

    def __init__(
        self, front: Front, about: About, encoder: Encoder, size: int, prompts: Prompts
    ) -> None:
        """`size`: of the model's logits; token ids are below it."""
        self._front, self._about, self._prompts = front, about, prompts
        self._encoder, self._size = encoder, size

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
        name = self._about.model_id
        model = {"id": name, "object": "model", "created": 0, "owned_by": name}
        return reply({"object": "list", "data": [model]})

    async def chat(self, http: web.Request) -> web.StreamResponse:
        """POST `/v1/chat/completions`."""
        body = await self._front.body(http, ChatBody)
        return await self._serve(http, lambda: self._chat(http, body), stream=body.stream)

    async def completions(self, http: web.Request) -> web.StreamResponse:
        """POST `/v1/completions`."""
        body = await self._front.body(http, CompletionBody)
        return await self._serve(http, lambda: self._completion(http, body), stream=body.stream)

    async def responses(self, http: web.Request) -> web.StreamResponse:
        """POST `/v1/responses`."""
        body = await self._front.body(http, ResponsesBody)
        return await self._serve(http, lambda: self._response(http, body), stream=body.stream)

    async def chat_tokenize(self, http: web.Request) -> web.StreamResponse:
        """POST `/chat_tokenize`: a chat's text, and its tokens."""
        body = await self._front.body(http, ChatBody)
        text = (await self._prompts.make(body, _size(http))).text
        spans = await self._encoder.spans(text, special=False)
        head, tail = (
            b'{"tokenize_response":',
            b',"templated_text":' + json_response.dump(text) + b"}",
        )
        return reply_in_parts([head, *spans, tail])

    @asynccontextmanager
    async def running(
        self, http: web.Request, body: ChatBody
    ) -> AsyncIterator[Callable[[], Awaitable[str]]]:
        """A chat that runs, and a function that waits for the text of its first answer."""
        async with self._live(http, lambda: self._chat(http, body)) as (plan, records):

            async def text() -> str:
                answer = await _answer(plan, records)
                return str(answer["choices"][0]["message"]["content"] or "")

            yield text

    async def _chat(self, http: web.Request, body: ChatBody) -> Plan:
        prompt = await self._prompts.make(body, _size(http))
        self._front.require_permit()
        requests = chat.requests(body, prompt, self._front.bounds, self._size)
        envelope = self._envelope(http, body)
        return Plan(
            requests=requests,
            shape=lambda records: chat.Chat(body, prompt, records, envelope, self._about),
            choices=len(requests),
            grammar=prompt.grammar,
            timed=True,
        )

    async def _completion(self, http: web.Request, body: CompletionBody) -> Plan:
        completions.prompts(body, self._front.bounds)
        self._front.require_permit()
        decode = self._encoder.vocabulary.decode_long
        values = body, self._front.bounds, self._size, decode
        requests = await aside(_size(http), completions.requests, *values)
        envelope = replace(self._envelope(http, body), model=self._about.model_id)
        return Plan(
            requests=requests,
            shape=lambda records: completions.Completion(body, records, envelope, self._about),
            choices=body.n or 1,
        )

    async def _response(self, http: web.Request, body: ResponsesBody) -> Plan:
        asked = await aside(_size(http), as_chat, body)
        prompt = await self._prompts.make(asked, _size(http))
        self._front.require_permit()
        envelope = self._envelope(http, asked)
        return Plan(
            requests=chat.requests(asked, prompt, self._front.bounds, self._size),
            shape=lambda records: responses.Response(body, prompt.reply(), records[0], envelope),
            grammar=prompt.grammar,
        )

    def _envelope(self, http: web.Request, body: Sampled) -> Envelope:
        own = body.model in (None, "", "tgi")
        model = self._about.model_id if own else str(body.model)
        return Envelope(http[REQUEST_ID], int(datetime.now(UTC).timestamp()), model)

    async def _serve(
        self, http: web.Request, planning: Planning, *, stream: bool
    ) -> web.StreamResponse:
        if stream:
            return await self._stream(http, planning)
        async with self._live(http, planning) as (plan, records):
            answer = await _answer(plan, records)
        told = shapes.headers(records, self._about, plan.choices, timed=plan.timed)
        return await reply_aside(answer, told, weight(records))

    async def _stream(self, http: web.Request, planning: Planning) -> web.StreamResponse:
        stream: EventStream | None = None
        try:
            async with self._live(http, planning) as (plan, records):
                headers = shapes.stream_headers(records, self._about, plan.choices)
                async with self._front.events(http, headers) as stream:
                    await _tell(stream, plan.shape(records), records)
        except (RouterError, ClientGone):
            if stream is None:
                raise
        return stream.response

    @asynccontextmanager
    async def _live(
        self, http: web.Request, planning: Planning
    ) -> AsyncIterator[tuple[Plan, Sequence[Record]]]:
        plans: list[Plan] = []

        async def wanted() -> Wanted:
            plan = await planning()
            plans.append(plan)
            return plan.requests, partial(self._complete, plan)

        async with self._front.life(http, wanted) as records:
            yield plans[0], records

    async def _complete(self, plan: Plan, request: Request) -> Request:
        return replace(request, grammar=await self._front.compiled(plan.grammar))


def _size(http: web.Request) -> float:
    """Bytes of a body whose values are still to be looked at."""
    return math.inf if http.content_length is None else http.content_length


async def _answer(plan: Plan, records: Sequence[Record]) -> dict[str, Any]:
    """The whole, once all have ended."""
    for record in records:
        async for _ in record.stream():
            pass
        _require_end(record)
    return await aside(weight(records), plan.shape(records).answer)


async def _tell(stream: EventStream, shape: Shape, records: Sequence[Record]) -> None:
    try:
        await _write(stream, shape.begin())
        await _follow_all(stream, shape, records)
        await _write(stream, shape.end())
    except RouterError as error:
        await _write(stream, [shape.failed(error.in_stream())])
        await _finish(stream, shape)
        raise
    await _finish(stream, shape)


async def _finish(stream: EventStream, shape: Shape) -> None:
    if shape.done:
        await stream.write(DONE)


async def _follow_all(stream: EventStream, shape: Shape, records: Sequence[Record]) -> None:
    """Tell all choices as their tokens come; the first that fails ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for index, record in enumerate(records):
                group.create_task(_follow(stream, shape, index, record))
    except BaseExceptionGroup as faults:
        raise faults.exceptions[0] from None


async def _follow(stream: EventStream, shape: Shape, index: int, record: Record) -> None:
    number = 0
    async for _ in record.stream():
        number += 1
        size = weight([record]) if number == 1 else 0  # the first may tell the prompt too
        await _write(stream, await aside(size, _listed, shape, index, number))
    _require_end(record)


def _listed(shape: Shape, index: int, number: int) -> list[dict[str, Any]]:
    return list(shape.token(index, number))


async def _write(stream: EventStream, events: Iterable[dict[str, Any]]) -> None:
    for event in events:
        await stream.write(json_response.dump(event))


def _require_end(record: Record) -> None:
    if record.finish_reason is None or not record.tokens:
        raise Incomplete
