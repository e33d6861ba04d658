"""The routes of hosted platforms: SageMaker's `/invocations` and Vertex AI's `/vertex`.

Both delegate to other routes. A SageMaker body is that of another route, recognised by its fields,
and errors have that route's form. Vertex AI sends several bodies at once, some of which may be
chats; they run at the same time, each with a permit, and are answered together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Annotated, Any

from aiohttp import web
from pydantic import Discriminator, Field, Tag

from router.errors import BodyTypeError, NoInstances, NoPredictions, RouterError, openai_error
from router.http.context import ERROR_FORMAT
from router.http.gateway import Gateway
from router.http.json_body import Body, parse_json
from router.http.json_response import json_response
from router.http.openapi_document import Operation
from router.native.openapi import EXAMPLE, ROOT
from router.native.request_models import GenerateRequest
from router.native.response_models import VertexResponse
from router.native.routes import NativeRoutes
from router.offload import offload
from router.openai.openapi import CHAT_OPERATION, COMPLETIONS_OPERATION
from router.openai.request_models import ChatRequest
from router.openai.routes import OpenAIRoutes


def _instance_kind(value: Any) -> str:
    return "(chat)" if isinstance(value, dict) and "messages" in value else "(generate)"


# a tag is never the name of a field, so that errors keep it out of paths
Instance = Annotated[
    Annotated[GenerateRequest, Tag("(generate)")] | Annotated[ChatRequest, Tag("(chat)")],
    Discriminator(_instance_kind),
]


MAX_INSTANCES = 1024
"""Maximum number of bodies in one request to `/vertex`."""


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

    def __init__(self, gateway: Gateway, native: NativeRoutes, openai: OpenAIRoutes) -> None:
        self._gateway, self._native, self._openai = gateway, native, openai
        self._openai_handlers = {"messages": openai.chat, "prompt": openai.completions}

    def routes(self, vertex_path: str | None = None) -> list[web.RouteDef]:
        """The routes; `vertex_path` is one more path, which Vertex AI has chosen."""
        paths = dict.fromkeys(filter(None, ("/vertex", vertex_path)))
        return [
            web.post("/invocations", self.invocations),
            *(web.post(path, self.vertex) for path in paths),
        ]

    async def invocations(self, http: web.Request) -> web.StreamResponse:
        """POST `/invocations`: delegate to the route that the body's fields belong to."""
        payload = await self._gateway.read_payload(http)
        value = await offload(len(payload), parse_json, payload, self._gateway.max_values)
        fields = value if isinstance(value, dict) else {}
        if "inputs" in fields:
            return await self._native.compat_generate(http)
        for name, handler in self._openai_handlers.items():
            if name in fields:
                http[ERROR_FORMAT] = openai_error
                return await handler(http)
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
            texts = [
                await stack.enter_async_context(self._running_text(http, body))
                for body in instances
            ]
            return [await text() for text in texts]

    def _running_text(
        self, http: web.Request, body: GenerateRequest | ChatRequest
    ) -> AbstractAsyncContextManager[Callable[[], Awaitable[str]]]:
        if isinstance(body, ChatRequest):
            return self._openai.running_text(http, body)
        return self._native.running_text(http, body)
