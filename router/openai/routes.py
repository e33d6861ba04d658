"""OpenAI's routes: from a body to live requests, and from these to a response or a stream.

The content of requests and responses lies in one file for each route, and how they are sent in
`responder`; here is only which body goes where.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from aiohttp import web

from router.errors import ModelNotFound
from router.http.context import PATH_PARAMETERS
from router.http.gateway import Gateway
from router.http.json_response import dump_json, json_response, json_response_streamed
from router.openai.chat_prompt import ChatPromptBuilder
from router.openai.generation import GenerationBuilder, body_bytes
from router.openai.model_names import DEFAULT_MODEL
from router.openai.request_models import ChatRequest, CompletionRequest
from router.openai.responder import Responder, full_response
from router.openai.responses_request import ResponsesRequest
from router.server_info import ServerInfo
from router.text.encoder import Encoder

PREFIX = "/v1"
"""Of the paths whose errors have OpenAI's form, unknown ones included."""


class OpenAIRoutes:
    """The routes over one gateway."""

    def __init__(
        self,
        gateway: Gateway,
        server_info: ServerInfo,
        encoder: Encoder,
        prompt_builder: ChatPromptBuilder,
        generations: GenerationBuilder,
        responder: Responder,
    ) -> None:
        self._gateway, self._server_info, self._encoder = gateway, server_info, encoder
        self._prompt_builder = prompt_builder
        self._generations, self._responder = generations, responder

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
        """GET `/v1/models`: the served model, then its adapters."""
        adapters = [self._model_object(name) for name in self._gateway.adapters.names]
        return json_response({"object": "list", "data": [self._model_object(), *adapters]})

    async def model(self, http: web.Request) -> web.StreamResponse:
        """GET `/v1/models/{model}`: one of them, whose name may contain slashes."""
        name = http[PATH_PARAMETERS]["model"]
        if name in (self._server_info.model_id, DEFAULT_MODEL):
            return json_response(self._model_object())
        if self._gateway.adapters.find(name) is None:
            raise ModelNotFound(name)
        return json_response(self._model_object(name))

    def _model_object(self, adapter: str | None = None) -> dict[str, Any]:
        """The served model, or one of its adapters, whose `parent` it is."""
        served = self._server_info.model_id
        name = {"id": adapter or served, "object": "model", "created": 0, "owned_by": served}
        return name if adapter is None else name | {"root": adapter, "parent": served}

    async def chat(self, http: web.Request) -> web.StreamResponse:
        """POST `/v1/chat/completions`."""
        body = await self._gateway.read_body(http, ChatRequest)
        precheck = partial(self._generations.chat, http, body)
        return await self._responder.respond(http, precheck, stream=body.stream)

    async def completions(self, http: web.Request) -> web.StreamResponse:
        """POST `/v1/completions`."""
        body = await self._gateway.read_body(http, CompletionRequest)
        precheck = partial(self._generations.completion, http, body)
        return await self._responder.respond(http, precheck, stream=body.stream)

    async def responses(self, http: web.Request) -> web.StreamResponse:
        """POST `/v1/responses`."""
        body = await self._gateway.read_body(http, ResponsesRequest)
        precheck = partial(self._generations.response, http, body)
        return await self._responder.respond(http, precheck, stream=body.stream)

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
                response = await full_response(generation, records)
                return str(response["choices"][0]["message"]["content"] or "")

            yield text
