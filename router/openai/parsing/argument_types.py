"""The value of an argument that a model wrote as plain text, by the JSON schema of its parameter.

A parameter that can only be a string keeps the text as it is, also if that looks like JSON. One of
another type is JSON if the text is, or if it is a list or a dictionary as Python writes it. With
several types, or none, JSON of a fitting type goes first. Pure.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from warnings import catch_warnings

from router.openai.parsing.json_scanner import is_json, json_string

Schema = Mapping[str, Any]
_TYPES = frozenset(("string", "integer", "number", "boolean", "object", "array", "null"))
ONLY_STRING = frozenset(("string",))
_PYTHON_TYPES = {
    "str": "string",
    "text": "string",
    "int": "integer",
    "float": "number",
    "bool": "boolean",
    "dict": "object",
    "list": "array",
}
"""Python's names, which clients also write."""
_PYTHON_CONTAINERS = frozenset("[{")
_PYTHON_LITERALS = {"true": ("boolean", "true"), "false": ("boolean", "false")}
_PYTHON_LITERALS |= {"none": ("null", "null"), "null": ("null", "null")}
_MAX_PYTHON_LENGTH = 20_000
"""Maximum length of a list or a dictionary that is read as Python."""
_INTEGER = re.compile(r"-?[0-9]+(?:\.0+)?", re.ASCII)
_MAX_REFERENCES = 16


def argument_json(text: str, schema: Any, root: Schema) -> str:
    """JSON for the argument `text`; `root` is the schema of all arguments, for its definitions."""
    types = accepted_types(schema, root)
    if types == ONLY_STRING or text in _string_choices(schema, root):
        return json_string(text)
    value = text.strip()
    if is_json(value) and (types is None or "string" not in types or _kinds(value) & types):
        return value
    kind, literal = _PYTHON_LITERALS.get(value.lower(), ("", ""))
    if types is None or "string" in types:
        return json_string(text)
    if kind in types:
        return literal
    return _python_container(value, types) or json_string(text)


def accepted_types(schema: Any, root: Schema) -> frozenset[str] | None:
    """The JSON types that `schema` allows; None if it allows any."""
    schema = _resolve(schema, root)
    if not isinstance(schema, Mapping):
        return None
    types = _declared_types(schema, root)
    if types is not None and schema.get("nullable") is True:
        return types | {"null"}
    return types


def _declared_types(schema: Schema, root: Schema) -> frozenset[str] | None:
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return frozenset(map(_type_of, schema["enum"]))
    if "const" in schema:
        return frozenset((_type_of(schema["const"]),))
    if "type" in schema:
        return _named_types(schema["type"])
    for keyword in ("anyOf", "oneOf"):
        if isinstance(schema.get(keyword), list):
            return _union(accepted_types(part, root) for part in schema[keyword])
    if isinstance(schema.get("allOf"), list):
        parts = (accepted_types(part, root) for part in schema["allOf"])
        return next((types for types in parts if types is not None), None)
    if "properties" in schema:
        return frozenset(("object",))
    return frozenset(("array",)) if "items" in schema else None


def _named_types(value: Any) -> frozenset[str] | None:
    names = value if isinstance(value, list) else [value]
    types = {_PYTHON_TYPES.get(name, name) for name in names if isinstance(name, str)}
    return frozenset(types) if types and types <= _TYPES else None


def _union(parts: Iterable[frozenset[str] | None]) -> frozenset[str] | None:
    union: frozenset[str] = frozenset()
    for types in parts:
        if types is None:
            return None
        union |= types
    return union or None


def _resolve(schema: Any, root: Schema) -> Any:
    """`schema`, or what its `$ref` within `root` leads to; None if it leads nowhere."""
    for _ in range(_MAX_REFERENCES):
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if not isinstance(reference, str):
            return schema
        schema = root if reference.startswith("#") else None
        for name in reference.removeprefix("#").split("/")[1:]:
            name = name.replace("~1", "/").replace("~0", "~")
            schema = schema.get(name) if isinstance(schema, Mapping) else None
    return None


def _string_choices(schema: Any, root: Schema) -> list[str]:
    """The strings of an `enum` or a `const`."""
    schema = _resolve(schema, root)
    if not isinstance(schema, Mapping):
        return []
    choices = schema.get("enum", [schema.get("const")])
    return [choice for choice in choices if isinstance(choice, str)]


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    if isinstance(value, Mapping):
        return "object"
    return "array" if isinstance(value, list) else "number"


def _python_container(text: str, types: frozenset[str]) -> str | None:
    """JSON for a list or a dictionary in Python's notation; None if `text` is none of `types`."""
    if text[:1] not in _PYTHON_CONTAINERS or len(text) > _MAX_PYTHON_LENGTH:
        return None
    try:
        with catch_warnings(action="ignore"):  # of unknown escapes
            value = ast.literal_eval(text)
        is_fitting = _type_of(value) in types & {"array", "object"}
        return json.dumps(value, ensure_ascii=False, allow_nan=False) if is_fitting else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _kinds(value: str) -> frozenset[str]:
    """The types that the JSON text `value` has; a string has none here, it stays text."""
    first = value[0]
    kinds = {"{": "object", "[": "array", "t": "boolean", "f": "boolean", "n": "null"}
    if first in kinds:
        return frozenset((kinds[first],))
    if first == '"':
        return frozenset()
    return frozenset(("number", "integer") if _INTEGER.fullmatch(value) else ("number",))
