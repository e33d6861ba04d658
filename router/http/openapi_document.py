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

REF = "#/components/schemas/{model}"
NAMES = {
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
FAILURES = {
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
READING_FAILURES = (401, 503)
NAMING_FAILURES = (401, 404)
"""Of paths that name something."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path. Without a model an answer is told by its media type alone."""

    method: str
    path: str
    summary: str
    takes: type[BaseModel] | None = None
    example: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """A body that is answered well."""
    gives: type[BaseModel] | None = None
    several: bool = False
    """Whether the answer is an array of `gives`."""
    streams: type[BaseModel] | None = None
    """An event of the answer's stream."""
    done: bool = False
    """Whether a last event says `[DONE]`."""
    like: tuple[Operation, ...] = ()
    """Those of which it takes any body and gives the answer, in place of its own."""
    text: bool = False
    """Whether the answer is text."""
    failure: type[BaseModel] = json_response.ErrorResponse
    tag: str = "Text generation"


def document(operations: Iterable[Operation]) -> bytes:
    """The document as JSON."""
    operations = list(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
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
            "schemas": _schemas(operations),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))  # orjson ends at 64 bits
    return _renamed(text).encode()


def _operation(operation: Operation) -> dict[str, Any]:
    like = operation.like or (operation,)
    told: dict[str, Any] = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": re.sub(r"\W+", "_", f"{operation.method} {operation.path}").strip("_"),
        "security": [{}, {"key": []}],
        "responses": {"200": {"description": operation.summary, **_content(_answer(like))}},
    }
    takes = [_reference(each.takes) for each in like if each.takes]
    if takes:
        told["requestBody"] = {"required": True, **_content({"application/json": _any(takes)})}
        told["requestBody"]["content"]["application/json"]["example"] = like[0].example
    names = re.findall(r"{(\w+)}", operation.path)
    if names:
        told["parameters"] = [_named(name) for name in names]
    failure = _content({"application/json": _any([_reference(each.failure) for each in like])})
    for status in _failures(bool(takes), bool(names)):
        told["responses"][str(status)] = {"description": FAILURES[status], **failure}
    return told


def _named(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _failures(takes: bool, names: bool) -> Iterable[int]:
    """The statuses that a path may answer with: one that takes a body, one that names something."""
    if names:
        return NAMING_FAILURES
    if takes:
        return (status for status in FAILURES if status != 404)
    return READING_FAILURES


def _answer(like: Sequence[Operation]) -> dict[str, Any]:
    """The schema of each media type that a good answer may have."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for operation in like:
        for kind, schema in _kinds(operation):
            kinds.setdefault(kind, []).append(schema)
    return {kind: _any(schemas) for kind, schemas in kinds.items()}


def _kinds(operation: Operation) -> Iterator[tuple[str, dict[str, Any]]]:
    if operation.gives:
        one = _reference(operation.gives)
        whole = {"type": "array", "items": one} if operation.several else one
        yield "application/json", whole
    if operation.streams:
        yield "text/event-stream", _event(operation, operation.streams)
    if operation.text:
        yield "text/plain; charset=utf-8", {"type": "string"}


def _event(operation: Operation, one: type[BaseModel]) -> dict[str, Any]:
    """The schema of one event: JSON in `data`, and the end of a stream that has one."""
    told = _any([_reference(one), _reference(operation.failure)])
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": told}
    if operation.done:
        data = _any([{"const": "[DONE]"}, data])
    return {"type": "object", "required": ["data"], "properties": {"data": data}}


def _any(schemas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    different = [each for at, each in enumerate(schemas) if each not in schemas[:at]]
    return different[0] if len(different) == 1 else {"anyOf": different}


def _content(schemas: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {kind: {"schema": schema} for kind, schema in schemas.items()}
    return {"content": kinds} if kinds else {}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": REF.format(model=model.__name__)}


def _schemas(operations: list[Operation]) -> dict[str, Any]:
    taken = [operation.takes for operation in operations]
    given = [
        model
        for operation in operations
        for model in (operation.gives, operation.streams, operation.failure)
    ]
    models = [(model, "validation") for model in dict.fromkeys([*taken, *given]) if model]
    _, schema = models_json_schema(models, ref_template=REF)  # type: ignore[arg-type]
    found: dict[str, Any] = schema["$defs"]
    return dict(sorted(found.items()))


def _renamed(text: str) -> str:
    """The document with TGI's names for our models."""
    for ours, theirs in NAMES.items():
        text = text.replace(f'/{ours}"', f'/{theirs}"').replace(f'"{ours}":', f'"{theirs}":')
        text = text.replace(f'"title":"{ours}"', f'"title":"{theirs}"')
    return text
