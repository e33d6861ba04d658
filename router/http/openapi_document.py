"""The OpenAPI document, generated from the models of request and response bodies.

An Operation describes one method of one path; the document follows from a list of them. Rule: a
field is in the document because it is in a model, and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from router import VERSION
from router.http import json_response

REF_TEMPLATE = "#/components/schemas/{model}"
ERROR_DESCRIPTIONS = {
    400: "The request body is not valid JSON",
    401: "Missing or invalid API key",
    404: "Not found",
    408: "Timeout while reading the request body",
    413: "The request body is too large",
    415: "The content type is not JSON, or the content encoding is not supported",
    422: "A field of the request is invalid",
    424: "Generation failed",
    429: "Too many concurrent requests",
    499: "The request was cancelled",
    500: "Generation ended without a result",
    503: "The server cannot serve requests at the moment",
}
READ_ERROR_STATUSES = (401, 503)
"""Of paths that take neither a body nor an id."""
LOOKUP_ERROR_STATUSES = (401, 404)
"""Of paths that contain an id."""
PATH_PARAMETERS = {
    "model": "Name of the model, which may contain slashes.",
    "request_id": "The request's `x-request-id`.",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. Without a model a response is described by its media type alone."""

    method: str
    path: str
    summary: str
    request_model: type[BaseModel] | None = None
    example: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """A valid request body."""
    response_model: type[BaseModel] | None = None
    is_list: bool = False
    """Whether the response is an array of `response_model`."""
    event_model: type[BaseModel] | None = None
    """One event of the response, if it can be a stream."""
    ends_with_done: bool = False
    """Whether the stream ends with the event `[DONE]`."""
    aliases_of: tuple[Operation, ...] = ()
    """Operations whose request and response bodies this one has in place of its own."""
    is_text: bool = False
    """Whether the response is plain text."""
    error_model: type[BaseModel] = json_response.ErrorResponse
    tag: str = "Text generation"


@cache
def openapi_document(operations: tuple[Operation, ...]) -> bytes:
    """The OpenAPI 3.1 document of `operations`, as JSON."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation_object(operation)
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Text Generation Inference",
            "description": "Text generation over the wire of Text Generation Inference",
            "license": {"name": "Apache 2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "version": VERSION,
        },
        "paths": paths,
        "components": {
            "schemas": _component_schemas(operations),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
    # not orjson, whose integers end at 64 bits
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _operation_object(operation: Operation) -> dict[str, Any]:
    sources = operation.aliases_of or (operation,)
    body: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": re.sub(r"\W+", "_", f"{operation.method} {operation.path}").strip("_"),
        "security": [{}, {"key": []}],
    }
    requests = [_schema_ref(each.request_model) for each in sources if each.request_model]
    if requests:
        body["requestBody"] = _request_body(requests, sources[0].example)
    names = re.findall(r"{(\w+)}", operation.path)
    if names:
        body["parameters"] = [_path_parameter(name) for name in names]
    success = {"description": operation.summary, **_content_object(_response_schemas(sources))}
    statuses = _error_statuses(bool(requests), bool(names))
    return {**body, "responses": {"200": success, **_error_responses(sources, statuses)}}


def _request_body(schemas: Sequence[dict[str, Any]], example: Mapping[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": _any_of(schemas), "example": example}}
    return {"required": True, "content": content}


def _error_responses(sources: Sequence[Operation], statuses: Iterable[int]) -> dict[str, Any]:
    schema = _any_of([_schema_ref(each.error_model) for each in sources])
    content = _content_object({"application/json": schema})
    return {
        str(status): {"description": ERROR_DESCRIPTIONS[status], **content} for status in statuses
    }


def _path_parameter(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "description": PATH_PARAMETERS[name],
        "schema": {"type": "string"},
    }


def _error_statuses(has_body: bool, has_path_parameters: bool) -> Iterable[int]:
    """The error statuses of a path, by whether it takes a body or contains an id."""
    if has_path_parameters:
        return LOOKUP_ERROR_STATUSES
    if has_body:
        return (status for status in ERROR_DESCRIPTIONS if status != 404)
    return READ_ERROR_STATUSES


def _response_schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    """The schema of each media type that a successful response may have."""
    by_type: dict[str, list[dict[str, Any]]] = {}
    for operation in operations:
        for media_type, schema in _schemas_by_media_type(operation):
            by_type.setdefault(media_type, []).append(schema)
    return {media_type: _any_of(schemas) for media_type, schemas in by_type.items()}


def _schemas_by_media_type(operation: Operation) -> Iterator[tuple[str, dict[str, Any]]]:
    if operation.response_model:
        item = _schema_ref(operation.response_model)
        schema = {"type": "array", "items": item} if operation.is_list else item
        yield "application/json", schema
    if operation.event_model:
        yield "text/event-stream", _event_schema(operation, operation.event_model)
    if operation.is_text:
        yield "text/plain; charset=utf-8", {"type": "string"}


def _event_schema(operation: Operation, event_model: type[BaseModel]) -> dict[str, Any]:
    """The schema of one event: JSON in `data`, and `[DONE]` where the stream ends with it."""
    content = _any_of([_schema_ref(event_model), _schema_ref(operation.error_model)])
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": content}
    description = "The event as JSON text."
    if operation.ends_with_done:
        data = _any_of([{"const": "[DONE]"}, data])
        description = "The event as JSON text, or `[DONE]` at the end of the stream."
    properties = {"data": {"description": description, **data}}
    return {"type": "object", "required": ["data"], "properties": properties}


def _any_of(schemas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    distinct = [each for index, each in enumerate(schemas) if each not in schemas[:index]]
    return distinct[0] if len(distinct) == 1 else {"anyOf": distinct}


def _content_object(schemas: Mapping[str, Any]) -> dict[str, Any]:
    content = {media_type: {"schema": schema} for media_type, schema in schemas.items()}
    return {"content": content} if content else {}


def _schema_ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF_TEMPLATE.format(model=model.__name__)}


def _component_schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    requests = [operation.request_model for operation in operations]
    responses = [
        model
        for operation in operations
        for model in (operation.response_model, operation.event_model, operation.error_model)
    ]
    models = [(model, "validation") for model in dict.fromkeys([*requests, *responses]) if model]
    _, schema = models_json_schema(models, ref_template=REF_TEMPLATE)  # type: ignore[arg-type]
    return dict(sorted(schema["$defs"].items()))
