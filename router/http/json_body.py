"""JSON bytes become a typed body, or an error that names the field.

Strict pydantic models: no bool as a number, no "5" as 5, every integer bounded by its type, floats
rounded to float32 before anyone compares them. Unknown fields are ignored and an explicit null
equals an absent field, at every depth. Nothing takes long: a body with too many values is refused
before it is parsed, and validation stops at the first wrong value.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from router import exact_json
from router.errors import BodyTypeError, MalformedJson
from router.exact_json import ExactNumber, TooDeep


def _nearest_float(value: Any) -> Any:
    return float(value) if isinstance(value, ExactNumber) else value


def _float32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError as fault:
        raise ValueError("number out of range of float32") from fault


def _checked_depth(value: Any) -> Any:
    if isinstance(value, str):
        exact_json.check_depth(value.encode(errors="replace"))
    return value


Float32 = Annotated[
    float,
    BeforeValidator(_nearest_float),
    Field(allow_inf_nan=False),
    AfterValidator(_float32),
]
U32 = Annotated[int, Field(ge=0, lt=1 << 32)]
U64 = Annotated[int, Field(ge=0, lt=1 << 64)]
I32 = Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)]
StringList = Annotated[list[str], Field(fail_fast=True)]
Json = Any
"""Any value of a parsed body; pydantic's JsonValue would traverse it once more."""
JsonOrText = Annotated[Json, AfterValidator(_checked_depth)]
"""Any value; if it is a string that holds JSON, that is not nested deeper than a body may be."""

_VALUE_SEPARATORS = (b",", b"[", b"{")
MAX_BODY_VALUES = 1 << 16
"""Maximum number of JSON values in a body, apart from those that may be token ids."""


class Body(BaseModel):
    """A model with strict types, which ignores unknown fields and treats null as absent."""

    model_config = ConfigDict(
        strict=True, extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: field for name, field in value.items() if field is not None}


AnyBody = TypeVar("AnyBody", bound=Body)


def parse_body(body: bytes, model: type[AnyBody], max_values: int = MAX_BODY_VALUES) -> AnyBody:
    """`body` as a `model`.

    Raises MalformedJson (not JSON) or BodyTypeError (names the first wrong field or one that is
    nested too deep, or says that there are more than `max_values` values).
    """
    return validate_body(parse_json(body, max_values), model)


def validate_body(value: Any, model: type[AnyBody]) -> AnyBody:
    """A parsed `value` as a `model`. Raises BodyTypeError, which names the first wrong field."""
    try:
        return model.model_validate(value)
    except ValidationError as fault:
        raise BodyTypeError(_error_text(fault, value)) from fault


def parse_json(body: bytes, max_values: int = MAX_BODY_VALUES) -> Any:
    """The parsed `body`, with exact numbers.

    Raises MalformedJson, or BodyTypeError for more than `max_values` values or too deep nesting.
    """
    if len(body) > max_values and _exceeds_values(body, max_values):
        raise BodyTypeError(f"body: it holds more than {max_values} values")
    try:
        return exact_json.loads(body)
    except TooDeep as fault:
        raise BodyTypeError(f"{fault.path}: {fault}") from fault
    except ValueError as fault:
        raise MalformedJson(str(fault)) from fault


def _exceeds_values(body: bytes, max_values: int) -> bool:
    """Whether there are too many values: commas and opening brackets outside of strings."""
    if sum(map(body.count, _VALUE_SEPARATORS)) <= max_values:
        return False
    plain = exact_json.without_escapes(body)
    if plain.count(b'"') > 4 * max_values:  # a value has at most a key and a string
        return True
    outside = exact_json.outside_quotes(plain)
    return sum(map(outside.count, _VALUE_SEPARATORS)) > max_values


def _error_text(fault: ValidationError, body: Any) -> str:
    """The path of the first wrong field in `body`, as the client wrote it, and what is wrong."""
    errors = fault.errors(include_url=False, include_context=False, include_input=False)
    located = [(_client_path(error, body), _message(error)) for error in errors]
    path = located[0][0]
    deeper = [entry for entry in located if entry[0][: len(path)] == path != entry[0]]
    if deeper:  # inside one of several types that the field may have
        path, text = deeper[0]
    else:
        text = _alternatives([text for other, text in located if other == path])
    return f"{'.'.join(map(str, path)) or 'body'}: {text}"


def _client_path(error: ErrorDetails, body: Any) -> tuple[int | str, ...]:
    """The names and indexes in the location of `error` that exist in `body`.

    pydantic also puts the names of its own types and validators into a location.
    """
    path: list[int | str] = []
    location, value = error["loc"], body
    for depth, part in enumerate(location, 1):
        is_last = depth == len(location)
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int):
            value = value[part] if part < len(value) else None
        elif not (is_last and error["type"] == "missing"):
            continue
        path.append(part)
    return tuple(path)


def _message(error: ErrorDetails) -> str:
    if error["type"] == "model_type":
        return "Input should be an object"
    return error["msg"].removeprefix("Value error, ")


def _alternatives(texts: Sequence[str]) -> str:
    """One sentence of the errors of a field that may have one of several types."""
    first, *others = dict.fromkeys(texts)
    return " or ".join([first, *(text.removeprefix("Input should be ") for text in others)])
