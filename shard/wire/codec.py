"""Converts frozen values to msgpack's types and back, driven by their type hints.

A dataclass is encoded as an array of its fields, a tuple as an array, an enum as its value, and
`Annotated[tuple[...], code]` as binary with that array code. Decoding accepts only what encoding
produces: no type conversion, no missing or extra field, no number that is not finite.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


class ProtocolError(Exception):
    """The peer violated the protocol; the connection must be closed."""


EncodeFunction = Callable[[Any], Any]
DecodeFunction = Callable[[Any], Any]


@cache
def encoder(hint: Any) -> EncodeFunction:
    """A function that converts a value of type `hint` to msgpack's types."""
    if get_origin(hint) is Annotated:
        code = get_args(hint)[1]
        return lambda value: array(code, value).tobytes()
    if is_dataclass(hint):
        types = get_type_hints(hint, include_extras=True)
        parts = [(field.name, encoder(types[field.name])) for field in fields(hint)]
        return lambda value: [encode(getattr(value, name)) for name, encode in parts]
    if get_origin(hint) is tuple:
        encode_item = encoder(get_args(hint)[0])
        return lambda value: [encode_item(item) for item in value]
    if get_origin(hint) in (Union, UnionType):
        inner = encoder(_optional_type(hint))
        return lambda value: None if value is None else inner(value)
    return _encode_scalar


def _encode_scalar(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


@cache
def decoder(hint: Any) -> DecodeFunction:
    """A function that converts msgpack's types to a value of type `hint`.

    It raises ProtocolError for anything that `encoder(hint)` does not produce.
    """
    if get_origin(hint) is Annotated:
        return _array_decoder(get_args(hint)[1])
    if is_dataclass(hint) and isinstance(hint, type):
        return _dataclass_decoder(hint)
    if get_origin(hint) is tuple:
        return _tuple_decoder(decoder(get_args(hint)[0]))
    if get_origin(hint) in (Union, UnionType):
        inner = decoder(_optional_type(hint))
        return lambda value: None if value is None else inner(value)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum_decoder(hint)
    return _scalar_decoder(hint)


def _optional_type(hint: Any) -> Any:
    """The type of an optional value that is not None."""
    return next(option for option in get_args(hint) if option is not NoneType)


def _array_decoder(code: str) -> DecodeFunction:
    def decode(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, bytes) or len(value) % array(code).itemsize:
            raise ProtocolError("expected a binary array")
        return tuple(array(code, value))

    return decode


def _dataclass_decoder(kind: type) -> DecodeFunction:
    types = get_type_hints(kind, include_extras=True)
    decoders = [decoder(types[field.name]) for field in fields(kind)]

    def decode(value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(decoders):
            raise ProtocolError(f"{kind.__name__} has {len(decoders)} fields")
        return kind(*(part(item) for part, item in zip(decoders, value, strict=True)))

    return decode


def _tuple_decoder(item: DecodeFunction) -> DecodeFunction:
    def decode(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ProtocolError("expected an array")
        return tuple(map(item, value))

    return decode


def _enum_decoder(kind: type[Enum]) -> DecodeFunction:
    def decode(value: Any) -> Enum:
        try:
            return kind(value)
        except ValueError as error:
            raise ProtocolError(str(error)) from error

    return decode


def _scalar_decoder(kind: type) -> DecodeFunction:
    def decode(value: Any) -> Any:
        if type(value) is not kind:
            raise ProtocolError(f"expected {kind.__name__}, found {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ProtocolError("expected a finite number")
        return value

    return decode
