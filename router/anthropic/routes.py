"""The routes of Anthropic's Messages API.

A body becomes a chat request, so that everything that chats can do is there; only the form of
bodies, responses, events and errors differs.
"""

from __future__ import annotations

from functools import partial

from aiohttp import web

from router.anthropic import chat_body
from router.anthropic.message import MessageFormatter
from router.anthropic.request_models import CountTokensRequest, MessagesRequest
from router.http.gateway import Gateway
from router.http.json_response import json_response
from router.offload import offload
from router.openai.chat_prompt import ChatPromptBuilder
from router.openai.generation import GenerationBuilder, OpenAIGeneration, body_bytes
from router.openai.responder import Responder
from router.text.encoder import Encoder

PREFIX = "/v1/messages"
"""Of the paths whose errors have Anthropic's form, unknown ones included."""
REQUEST_ID_HEADER = "request-id"
"""Anthropic's name of `x-request-id`; responses have both."""


class MessagesRoutes:
    """The routes over one gateway."""

    def __init__(
        self,
        gateway: Gateway,
        encoder: Encoder,
        prompt_builder: ChatPromptBuilder,
        generations: GenerationBuilder,
        responder: Responder,
    ) -> None:
        self._gateway, self._encoder, self._prompt_builder = gateway, encoder, prompt_builder
        self._generations, self._responder = generations, responder

    def routes(self) -> list[web.RouteDef]:
        """The routes below `PREFIX`."""
        return [
            web.post(PREFIX, self.messages),
            web.post(f"{PREFIX}/count_tokens", self.count_tokens),
        ]

    async def messages(self, http: web.Request) -> web.StreamResponse:
        """POST `/v1/messages`."""
        body = await self._gateway.read_body(http, MessagesRequest)
        precheck = partial(self._generation, http, body)
        return await self._responder.respond(http, precheck, stream=body.stream)

    async def count_tokens(self, http: web.Request) -> web.StreamResponse:
        """POST `/v1/messages/count_tokens`: the length of the prompt that a message would have."""
        body = await self._gateway.read_body(http, CountTokensRequest)
        with self._gateway.hold_permit():
            size = body_bytes(http)
            as_chat = await offload(size, chat_body.prompt_body, body)
            text = (await self._prompt_builder.build(as_chat, size)).text
            tokens = await self._encoder.encode(text, add_special_tokens=False)
        return json_response({"input_tokens": len(tokens)})

    async def _generation(self, http: web.Request, body: MessagesRequest) -> OpenAIGeneration:
        max_stops = self._gateway.bounds.max_stop_sequences
        as_chat = await offload(body_bytes(http), chat_body.generation_body, body, max_stops)
        return await self._generations.translated(
            http,
            as_chat,
            lambda prompt, header, record: MessageFormatter(prompt.new_parser(), record, header),
        )
