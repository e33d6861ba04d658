"""The routes that only tokenise: nothing is generated and no permit is taken."""

from __future__ import annotations

from aiohttp import web

from router import native
from router.body import Generate, read
from router.routes import Front, reply
from router.text import Vocabulary


class Tokens:
    """`/tokenize`, over the vocabulary of the served model."""

    def __init__(self, front: Front, vocabulary: Vocabulary) -> None:
        self._front, self._vocabulary = front, vocabulary

    def routes(self) -> list[web.RouteDef]:
        """Path by path."""
        return [web.post("/tokenize", self.tokenize)]

    async def tokenize(self, http: web.Request) -> web.StreamResponse:
        """POST `/tokenize`: the tokens of a body's `inputs`, whatever its parameters say."""
        body = read(await self._front.payload(http), Generate)
        return reply(native.spans(body.inputs, await self._vocabulary.spans(body.inputs)))
