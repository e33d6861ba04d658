"""The routes that only tokenise: nothing is generated and no permit is taken."""

from __future__ import annotations

from aiohttp import web

from router.http.json_response import reply_in_parts
from router.native.request_models import Generate
from router.native.routes import Front
from router.text.encoder import Encoder


class Tokens:
    """`/tokenize`, over the vocabulary of the served model."""

    def __init__(self, front: Front, encoder: Encoder) -> None:
        self._front, self._encoder = front, encoder

    def routes(self) -> list[web.RouteDef]:
        """Path by path."""
        return [web.post("/tokenize", self.tokenize)]

    async def tokenize(self, http: web.Request) -> web.StreamResponse:
        """POST `/tokenize`: the tokens of a body's `inputs`, whatever its parameters say."""
        body = await self._front.body(http, Generate)
        return reply_in_parts(await self._encoder.spans(body.inputs))
