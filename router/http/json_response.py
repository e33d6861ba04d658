"""JSON responses; a large one is serialized off the event loop, or sent part by part."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict

from router import exact_json
from router.offload import offload
from router.requests.record import LiveRequest


class ResponseModel(BaseModel):
    """A JSON object of a response; the docstrings of its fields describe them in the document."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ErrorResponse(ResponseModel):
    """An error."""

    error: str
    """Description of the error."""
    error_type: str
    """Kind of error, such as `validation` or `overloaded`."""


def dump_json(value: Any) -> bytes:
    """JSON without spaces or newlines."""
    return exact_json.dumps(value)


_BYTES_PER_TOKEN = 100
_MAX_UNSTREAMED_BYTES = 1 << 20


def json_response(
    value: Any, headers: Mapping[str, str] | None = None, status: int = 200
) -> web.Response:
    """A JSON response."""
    body = dump_json(value)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


async def json_response_offloaded(
    value: Any, headers: Mapping[str, str], size: int
) -> web.Response:
    """A JSON response whose `value` may be large: about `size` bytes."""
    body = await offload(size, dump_json, value)
    return web.Response(body=body, headers=headers, content_type="application/json")


def estimated_json_bytes(records: Sequence[LiveRequest]) -> int:
    """Approximate size in bytes of a response that reports all of `records`."""
    tokens = (
        len(each.tokens) + each.request.decoder_input_details * len(each.prompt) for each in records
    )
    return _BYTES_PER_TOKEN * sum(tokens)


def json_response_streamed(parts: Sequence[bytes]) -> web.Response:
    """The response whose JSON is `parts`; a large one is sent part by part, as the client reads."""
    size = sum(map(len, parts))
    if size <= _MAX_UNSTREAMED_BYTES:
        return web.Response(body=b"".join(parts), content_type="application/json")

    async def each() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    headers = {"Content-Length": str(size), "Content-Type": "application/json"}
    return web.Response(body=each(), headers=headers)
