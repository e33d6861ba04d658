"""The ingress: reads a request whole and streams the response of the replica that is chosen.

If the replica dies before it has answered, another one is asked, once; nothing was sent to the
client by then. If it dies later, the connection is cut, so that no client takes a part for all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from deploy.ray.call import Call, Head, end_to_end

ATTEMPTS = 2


class Front:
    """Passes every route on."""

    def __init__(self, replicas: DeploymentHandle) -> None:
        self._replicas = replicas.options(method_name="forward", stream=True)
        self._id = uuid4().hex

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        query = f"?{request.url.query}" if request.url.query else ""
        headers = end_to_end(request.headers.items())
        call = Call(
            self._id, request.method, request.url.path + query, headers, await request.body()
        )
        for _ in range(ATTEMPTS):
            chunks = self._replicas.remote(call)
            try:
                head: Head = await anext(chunks)
            except RayActorError:
                continue
            return _response(head, chunks)
        error = {"error": "the replica has died", "error_type": "unhealthy"}
        return JSONResponse(error, 503, {"retry-after": "1"})


def _response(head: Head, chunks: Any) -> Response:
    response = StreamingResponse(_body(chunks), head.status)
    response.raw_headers = [(name.lower().encode(), value.encode()) for name, value in head.headers]
    return response


async def _body(chunks: Any) -> AsyncIterator[bytes]:
    """Yield the chunks; a client that leaves ends the request at the replica."""
    try:
        async for chunk in chunks:
            yield chunk
    finally:
        chunks.cancel()
