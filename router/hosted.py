"""The routes of hosted platforms: SageMaker's `/invocations` and Vertex AI's `/vertex`.

Both only lead elsewhere. SageMaker's body is that of another route, told by the field it has.
Vertex sends several at once; they run together, each with a permit, and are answered together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack

from aiohttp import web

from router.body import Generate, Vertex, parse_json, read
from router.errors import Mistyped, NoInstances, NoPredictions, RouterError
from router.routes import Front, reply

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Hosted:
    """Both routes over the native ones and, by the field that tells them, others."""

    def __init__(self, front: Front, others: Mapping[str, Handler]) -> None:
        """`others`: handlers for bodies that have `messages` or `prompt`."""
        self._front = front
        self._handlers = {"inputs": front.compat_generate, **others}

    def routes(self, predict: str | None = None) -> list[web.RouteDef]:
        """Path by path; `predict` is another path that Vertex AI has chosen."""
        paths = dict.fromkeys(filter(None, ("/vertex", predict)))
        return [
            web.post("/invocations", self.invocations),
            *(web.post(path, self.vertex) for path in paths),
        ]

    async def invocations(self, http: web.Request) -> web.StreamResponse:
        """POST `/invocations`."""
        value = parse_json(await self._front.payload(http))
        fields = value if isinstance(value, dict) else {}
        for name, handler in self._handlers.items():
            if name in fields:
                return await handler(http)
        known = " or ".join(f"`{name}`" for name in self._handlers)
        raise Mistyped(f"body: {known} is required")

    async def vertex(self, http: web.Request) -> web.StreamResponse:
        """POST `/vertex`."""
        instances = read(await self._front.payload(http), Vertex).instances
        if not instances:
            raise NoInstances
        try:
            return reply({"predictions": await self._predictions(http, instances)})
        except RouterError as error:
            if error.label in ("generation", "incomplete"):
                raise NoPredictions from error
            raise

    async def _predictions(self, http: web.Request, instances: Sequence[Generate]) -> list[str]:
        """The text of each instance; all are live before the first is waited for."""
        async with AsyncExitStack() as stack:
            live = [
                await stack.enter_async_context(self._front.open(http, body, stream=False))
                for body in instances
            ]
            answers = [await self._front.answer(records, full_text=False) for records in live]
        return [str(answer["generated_text"]) for _, answer in answers]
