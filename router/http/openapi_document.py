"""The OpenAPI document, made from the models that parse bodies and tell answers.

An Operation says what one path does; the document follows from a list of them. Nothing is written
down twice: a field that a body takes is in the document because it is in the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from router import VERSION
from router.http import json_response

REF_TEMPLATE = "#/components/schemas/{model}"
SCHEMA_NAMES = {
    "Generate": "GenerateRequest",
    "CompatGenerate": "CompatGenerateRequest",
    "Parameters": "GenerateParameters",
    "Grammar": "GrammarType",
    "Vertex": "VertexRequest",
    "ChatBody": "ChatRequest",
    "CompletionBody": "CompletionRequest",
    "ResponsesBody": "ResponsesRequest",
}
"""TGI's names of our models."""
ERROR_DESCRIPTIONS = {
    400: "The body is not JSON",
    401: "The key is missing or another",
    404: "Nothing has that name",
    408: "The body came too slowly",
    413: "The body is too large",
    415: "The body is not declared to be JSON",
    422: "A field has the wrong type or breaks a rule",
    424: "The engine failed on this request",
    429: "No permit is free",
    499: "Cancelled by its id",
    500: "The generation ended without its last token",
    503: "Nothing is served now",
}
READ_ERROR_STATUSES = (401, 503)
LOOKUP_ERROR_STATUSES = (401, 404)
"""Of paths that name something."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. Without a model an answer is told by its media type alone."""

    method: str
    path: str
    summary: str
    request_model: type[BaseModel] | None = None
    example: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """A body that is answered well."""
    response_model: type[BaseModel] | None = None
    is_list: bool = False
    """Whether the answer is an array of `response_model`."""
    event_model: type[BaseModel] | None = None
    """An event of the answer's stream."""
    ends_with_done: bool = False
    """Whether a last event says `[DONE]`."""
    aliases_of: tuple[Operation, ...] = ()
    """Those of which it takes any body and gives the answer, in place of its own."""
    is_text: bool = False
    """Whether the answer is text."""
    error_model: type[BaseModel] = json_response.ErrorResponse
    tag: str = "Text generation"


def openapi_document(operations: Iterable[Operation]) -> bytes:
    """The document as JSON."""
    operations = list(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation_object(operation)
    whole = {
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
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))  # orjson ends at 64 bits
    return _with_public_names(text).encode()


def _operation_object(operation: Operation) -> dict[str, Any]:
    like = operation.aliases_of or (operation,)
    told: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": re.sub(r"\W+", "_", f"{operation.method} {operation.path}").strip("_"),
        "security": [{}, {"key": []}],
        "responses": {
            "200": {"description": operation.summary, **_content_object(_response_schemas(like))}
        },
    }
    takes = [_schema_ref(each.request_model) for each in like if each.request_model]
    if takes:
        told["requestBody"] = {
            "required": True,
            **_content_object({"application/json": _any_of(takes)}),
        }
        told["requestBody"]["content"]["application/json"]["example"] = like[0].example
    names = re.findall(r"{(\w+)}", operation.path)
    if names:
        told["parameters"] = [_path_parameter(name) for name in names]
    failure = _content_object(
        {"application/json": _any_of([_schema_ref(each.error_model) for each in like])}
    )
    for status in _error_statuses(bool(takes), bool(names)):
        told["responses"][str(status)] = {"description": ERROR_DESCRIPTIONS[status], **failure}
    return told


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _error_statuses(has_body: bool, has_path_parameters: bool) -> Iterable[int]:
    """The statuses that a path may answer with: one that takes a body, one that names something."""
    if has_path_parameters:
        return LOOKUP_ERROR_STATUSES
    if has_body:
        return (status for status in ERROR_DESCRIPTIONS if status != 404)
    return READ_ERROR_STATUSES


def _response_schemas(operations: Sequence[Operation]) -> dict[str, Any]:
    """The schema of each media type that a good answer may have."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for operation in operations:
        for kind, schema in _schemas_by_media_type(operation):
            kinds.setdefault(kind, []).append(schema)
    return {kind: _any_of(schemas) for kind, schemas in kinds.items()}


def _schemas_by_media_type(operation: Operation) -> Iterator[tuple[str, dict[str, Any]]]:
    if operation.response_model:
        one = _schema_ref(operation.response_model)
        whole = {"type": "array", "items": one} if operation.is_list else one
        yield "application/json", whole
    if operation.event_model:
        yield "text/event-stream", _event_schema(operation, operation.event_model)
    if operation.is_text:
        yield "text/plain; charset=utf-8", {"type": "string"}


def _event_schema(operation: Operation, event_model: type[BaseModel]) -> dict[str, Any]:
    """The schema of one event: JSON in `data`, and the end of a stream that has one."""
    told = _any_of([_schema_ref(event_model), _schema_ref(operation.error_model)])
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": told}
    if operation.ends_with_done:
        data = _any_of([{"const": "[DONE]"}, data])
    return {"type": "object", "required": ["data"], "properties": {"data": data}}


def _any_of(schemas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    different = [each for at, each in enumerate(schemas) if each not in schemas[:at]]
    return different[0] if len(different) == 1 else {"anyOf": different}


def _content_object(schemas: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {kind: {"schema": schema} for kind, schema in schemas.items()}
    return {"content": kinds} if kinds else {}


def _schema_ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF_TEMPLATE.format(model=model.__name__)}


def _component_schemas(operations: list[Operation]) -> dict[str, Any]:
    taken = [operation.request_model for operation in operations]
    given = [
        model
        for operation in operations
        for model in (operation.response_model, operation.event_model, operation.error_model)
    ]
    models = [(model, "validation") for model in dict.fromkeys([*taken, *given]) if model]
    _, schema = models_json_schema(models, ref_template=REF_TEMPLATE)  # type: ignore[arg-type]
    found: dict[str, Any] = schema["$defs"]
    return dict(sorted(found.items()))


def _with_public_names(text: str) -> str:
    """The document with TGI's names for our models."""
    for ours, theirs in SCHEMA_NAMES.items():
        text = text.replace(f'/{ours}"', f'/{theirs}"').replace(f'"{ours}":', f'"{theirs}":')
        text = text.replace(f'"title":"{ours}"', f'"title":"{theirs}"')
    return text
