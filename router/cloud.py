"""The routes of hosted platforms: SageMaker's `/invocations` and Vertex AI's `/vertex`.

Both only lead elsewhere. SageMaker's body is that of another route, told by the field it has, and
errors have that route's form. Vertex sends several at once, of which some may be chats; they run
together, each with a permit, and are answered together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Annotated, Any

from aiohttp import web
from pydantic import Discriminator, Field, Tag

from router.errors import Mistyped, NoInstances, NoPredictions, RouterError
from router.http.json_body import Body, parse_json
from router.http.json_response import reply
from router.http.openapi_document import Operation
from router.http.server import refusal
from router.native.openapi import EXAMPLE, ROOT
from router.native.request_models import Generate
from router.native.response_models import VertexResponse
from router.native.routes import Front
from router.offload import aside
from router.openai.openapi import CHAT, COMPLETIONS
from router.openai.request_models import ChatBody
from router.openai.routes import OpenAi


def _kind(value: Any) -> str:
    return "messages" if isinstance(value, dict) and "messages" in value else "inputs"


Instance = Annotated[
    Annotated[Generate, Tag("inputs")] | Annotated[ChatBody, Tag("messages")],
    Discriminator(_kind),
]


MOST_INSTANCES = 1024


class VertexRequest(Body):
    """Body of `/vertex`."""

    instances: Annotated[list[Instance], Field(fail_fast=True, max_length=MOST_INSTANCES)]


HOSTED = (
    Operation(
        *("post", "/invocations", "Generate for SageMaker, as the route of that body does"),
        like=(ROOT, CHAT, COMPLETIONS),
    ),
    Operation(
        *("post", "/vertex", "Generate for Vertex AI"),
        takes=VertexRequest,
        example={"instances": [EXAMPLE]},
        gives=VertexResponse,
    ),
)


class Hosted:
    """Both routes, over the native ones and OpenAI's."""

    def __init__(self, front: Front, openai: OpenAi) -> None:
        self._front, self._openai = front, openai
        self._chats = {"messages": openai.chat, "prompt": openai.completions}

    def routes(self, predict: str | None = None) -> list[web.RouteDef]:
        """Path by path; `predict` is another path that Vertex AI has chosen."""
        paths = dict.fromkeys(filter(None, ("/vertex", predict)))
        return [
            web.post("/invocations", self.invocations),
            *(web.post(path, self.vertex) for path in paths),
        ]

    async def invocations(self, http: web.Request) -> web.StreamResponse:
        """POST `/invocations`."""
        payload = await self._front.payload(http)
        value = await aside(len(payload), parse_json, payload, self._front.most_values)
        fields = value if isinstance(value, dict) else {}
        if "inputs" in fields:
            return await self._front.compat_generate(http)
        for name, handler in self._chats.items():
            if name in fields:
                try:
                    return await handler(http)
                except RouterError as error:
                    return refusal(error, CHAT.path)
        raise Mistyped("body: `inputs` or `messages` or `prompt` is required")

    async def vertex(self, http: web.Request) -> web.StreamResponse:
        """POST `/vertex`."""
        instances = (await self._front.body(http, VertexRequest)).instances
        if not instances:
            raise NoInstances
        try:
            return reply({"predictions": await self._predictions(http, instances)})
        except RouterError as error:
            if error.label in ("generation", "incomplete"):
                raise NoPredictions from error
            raise

    async def _predictions(
        self, http: web.Request, instances: Sequence[Generate | ChatBody]
    ) -> list[str]:
        """The text of each instance; all are live before the first is waited for."""
        async with AsyncExitStack() as stack:
            live = [await self._start(stack, http, body) for body in instances]
            return [await text() for text in live]

    async def _start(
        self, stack: AsyncExitStack, http: web.Request, body: Generate | ChatBody
    ) -> Callable[[], Awaitable[str]]:
        if isinstance(body, ChatBody):
            return await stack.enter_async_context(self._openai.running(http, body))
        records = await stack.enter_async_context(self._front.open(http, body, stream=False))

        async def text() -> str:
            _, answer = await self._front.answer(records, full_text=False)
            return str(answer["generated_text"])

        return text
