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

from router.errors import BodyTypeError, NoInstances, NoPredictions, RouterError
from router.http.json_body import Body, parse_json
from router.http.json_response import json_response
from router.http.openapi_document import Operation
from router.http.server import error_response
from router.native.openapi import EXAMPLE, ROOT
from router.native.request_models import GenerateRequest
from router.native.response_models import VertexResponse
from router.native.routes import Gateway
from router.offload import offload
from router.openai.openapi import CHAT_OPERATION, COMPLETIONS_OPERATION
from router.openai.request_models import ChatRequest
from router.openai.routes import OpenAIRoutes


def _instance_kind(value: Any) -> str:
    return "messages" if isinstance(value, dict) and "messages" in value else "inputs"


Instance = Annotated[
    Annotated[GenerateRequest, Tag("inputs")] | Annotated[ChatRequest, Tag("messages")],
    Discriminator(_instance_kind),
]


MAX_INSTANCES = 1024


class VertexRequest(Body):
    """Body of `/vertex`."""

    instances: Annotated[list[Instance], Field(fail_fast=True, max_length=MAX_INSTANCES)]
    """Up to 1024 bodies of `/generate` or `/v1/chat/completions`."""


CLOUD_OPERATIONS = (
    Operation(
        method="post",
        path="/invocations",
        summary="Generate for SageMaker; the body selects the route",
        aliases_of=(ROOT, CHAT_OPERATION, COMPLETIONS_OPERATION),
    ),
    Operation(
        method="post",
        path="/vertex",
        summary="Generate for Vertex AI",
        request_model=VertexRequest,
        example={"instances": [EXAMPLE]},
        response_model=VertexResponse,
    ),
)


class CloudRoutes:
    """Both routes, over the native ones and OpenAI's."""

    def __init__(self, gateway: Gateway, openai: OpenAIRoutes) -> None:
        self._gateway, self._openai = gateway, openai
        self._openai_handlers = {"messages": openai.chat, "prompt": openai.completions}

    def routes(self, vertex_path: str | None = None) -> list[web.RouteDef]:
        """Path by path; `vertex_path` is another path that Vertex AI has chosen."""
        paths = dict.fromkeys(filter(None, ("/vertex", vertex_path)))
        return [
            web.post("/invocations", self.invocations),
            *(web.post(path, self.vertex) for path in paths),
        ]

    async def invocations(self, http: web.Request) -> web.StreamResponse:
        """POST `/invocations`."""
        payload = await self._gateway.read_payload(http)
        value = await offload(len(payload), parse_json, payload, self._gateway.max_values)
        fields = value if isinstance(value, dict) else {}
        if "inputs" in fields:
            return await self._gateway.compat_generate(http)
        for name, handler in self._openai_handlers.items():
            if name in fields:
                try:
                    return await handler(http)
                except RouterError as error:
                    return error_response(error, CHAT_OPERATION.path)
        raise BodyTypeError("body: `inputs` or `messages` or `prompt` is required")

    async def vertex(self, http: web.Request) -> web.StreamResponse:
        """POST `/vertex`."""
        instances = (await self._gateway.read_body(http, VertexRequest)).instances
        if not instances:
            raise NoInstances
        try:
            return json_response({"predictions": await self._predictions(http, instances)})
        except RouterError as error:
            if error.label in ("generation", "incomplete"):
                raise NoPredictions from error
            raise

    async def _predictions(
        self, http: web.Request, instances: Sequence[GenerateRequest | ChatRequest]
    ) -> list[str]:
        """The text of each instance; all are live before the first is waited for."""
        async with AsyncExitStack() as stack:
            live = [await self._start(stack, http, body) for body in instances]
            return [await text() for text in live]

    async def _start(
        self, stack: AsyncExitStack, http: web.Request, body: GenerateRequest | ChatRequest
    ) -> Callable[[], Awaitable[str]]:
        if isinstance(body, ChatRequest):
            return await stack.enter_async_context(self._openai.running_chat(http, body))
        records = await stack.enter_async_context(self._gateway.open(http, body, stream=False))

        async def text() -> str:
            _, answer = await self._gateway.collect_response(records, full_text=False)
            return str(answer["generated_text"])

        return text
