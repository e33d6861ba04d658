"""The routes that only tokenise: nothing is generated and no permit is taken."""

from __future__ import annotations

from aiohttp import web

from router.http.json_response import json_response_streamed
from router.native.request_models import GenerateRequest
from router.native.routes import Gateway
from router.text.encoder import Encoder


class TokenizeRoutes:
    """`/tokenize`, over the vocabulary of the served model."""

    def __init__(self, gateway: Gateway, encoder: Encoder) -> None:
        self._gateway, self._encoder = gateway, encoder

    def routes(self) -> list[web.RouteDef]:
        """Path by path."""
        return [web.post("/tokenize", self.tokenize)]

    async def tokenize(self, http: web.Request) -> web.StreamResponse:
        """POST `/tokenize`: the tokens of a body's `inputs`, whatever its parameters say."""
        body = await self._gateway.read_body(http, GenerateRequest)
        return json_response_streamed(await self._encoder.tokens_with_offsets(body.inputs))
