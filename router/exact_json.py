"""JSON whose numbers keep their value, in bounded depth.

orjson reads and writes everything, but an integer beyond 64 bits becomes a float and 1e400 is an
error. Here a number that neither an int64 or uint64 nor a float holds exactly becomes an
`ExactNumber`, which is written as it was read. Whether a text is JSON is still orjson's decision.
Pure.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from numbers import Number
from secrets import token_hex
from typing import Any, NoReturn

import orjson

MAX_DEPTH = 100
"""Maximum number of arrays and objects around a value, the outermost included."""

_STRING = rb'"(?:[^"\\]++|\\.)*+"'
_TOKEN = re.compile(rb"%s|-?[0-9][0-9.eE+-]*+" % _STRING, re.DOTALL)
_STRUCTURE = re.compile(rb"%s|[\[\]{},:]" % _STRING, re.DOTALL)
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_PERHAPS_INEXACT = re.compile(rb"[0-9.]{17}|[0-9][eE]")
"""A float holds 15 digits of any number and 16 of an integer, if there is no exponent."""
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_MAX_FLOAT = int(sys.float_info.max)
_MAX_FLOAT_DIGITS = 309
"""Digits of `_MAX_FLOAT`."""
_MAX_PATH_PARTS = 6
_MAX_NAME_LENGTH = 40
_PLACEHOLDER = token_hex(8)
_PLACEHOLDER_PATTERN = re.compile(f'"{_PLACEHOLDER}([^"]*)"')


class TooDeep(ValueError):
    """Arrays and objects are nested too deep; `path` names the field, or is empty."""

    def __init__(self, path: str) -> None:
        super().__init__(f"nested more than {MAX_DEPTH} levels deep")
        self.path = path


class ExactNumber(Number):
    """A number as JSON text, for one that no int64, uint64 or float equals."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __float__(self) -> float:
        """The nearest float, which may be infinite."""
        return float(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExactNumber) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return self.text


def loads(data: bytes | str, *, max_depth: int | None = MAX_DEPTH) -> Any:
    """The value that `data` describes.

    Raises TooDeep, or orjson.JSONDecodeError, a ValueError, if `data` is not JSON.
    """
    text = data.encode(errors="surrogatepass") if isinstance(data, str) else data
    if max_depth is not None:
        check_depth(text, max_depth)
    if not _PERHAPS_INEXACT.search(text):
        return orjson.loads(text)
    simplified = _TOKEN.sub(_replace_inexact, text)
    value = orjson.loads(simplified)
    if simplified == text:
        return value
    return _DECODER.decode(text.decode())


def load_prefix(text: str, start: int) -> tuple[Any, int]:
    """The value at `start` of `text`, which may go on after it, and the index of its end.

    Raises TooDeep, or json.JSONDecodeError, a ValueError, if there is no JSON.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise TooDeep("") from None
    check_depth(text[start:end].encode(errors="surrogatepass"))
    return value, end


def dumps(value: Any) -> bytes:
    """`value` as JSON without spaces. Raises TypeError for what JSON cannot hold."""
    return orjson.dumps(value, default=_as_fragment)


def dumps_readable(value: Any, **options: Any) -> str:
    """`value` as `json.dumps` writes it with `options`. Raises TypeError, ValueError."""
    text = json.dumps(value, default=_as_placeholder, **options)
    return _PLACEHOLDER_PATTERN.sub(r"\1", text)


def check_depth(data: bytes, max_depth: int = MAX_DEPTH) -> None:
    """Raise TooDeep if arrays and objects are nested more than `max_depth` levels deep."""
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return
    brackets = outside_strings(data).translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(max_depth):
        brackets = brackets.replace(b"[]", b"")  # removes the innermost level
        if not brackets:
            return
    path = _deep_path(data, max_depth)
    if path is not None:
        raise TooDeep(path)


def outside_strings(data: bytes) -> bytes:
    """The JSON text `data` without its strings."""
    return outside_quotes(without_escapes(data))


def without_escapes(data: bytes) -> bytes:
    """The JSON text `data` without escaped backslashes and quotes: each quote bounds a string."""
    return data.replace(rb"\\", b"").replace(rb"\"", b"")


def outside_quotes(unescaped: bytes) -> bytes:
    """What stands outside the strings of a text from `without_escapes`."""
    return b"".join(unescaped.split(b'"')[::2])


def nested_values(value: Any) -> Iterator[Any]:
    """`value` and everything inside its arrays and objects, in no particular order."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, dict | list):
            pending.extend(part.values() if isinstance(part, dict) else part)
        yield part


def is_float_exact(value: object) -> bool:
    """Whether a float has the value of the parsed number `value`, as its text has it."""
    if isinstance(value, int):
        return _is_exact_integer(value)
    if isinstance(value, float):
        return not value.is_integer() or Decimal(repr(value)) == Decimal(value)
    return isinstance(value, ExactNumber) and _is_float_integer(value.text)


def _is_float_integer(text: str) -> bool:
    """Whether `text` is an integer in digits only that a float has the value of."""
    digits = text.removeprefix("-")
    return digits.isdecimal() and len(digits) <= _MAX_FLOAT_DIGITS and _is_exact_integer(int(text))


def _is_exact_integer(value: int) -> bool:
    return abs(value) <= _MAX_FLOAT and int(float(value)) == value


def _replace_inexact(match: re.Match[bytes]) -> bytes:
    token = match[0]
    is_inexact = token[:1] != b'"' and _NUMBER.fullmatch(token) and _is_inexact(token.decode())
    return b"0" if is_inexact else token


def _is_inexact(text: str) -> bool:
    parse: Callable[[str], Any] = _parse_float if set(text) & set(".eE") else _parse_int
    return isinstance(parse(text), ExactNumber)


def _parse_int(text: str) -> int | ExactNumber:
    value = int(text) if len(text) <= 20 else None
    return ExactNumber(text) if value is None or not -(1 << 63) <= value < 1 << 64 else value


def _parse_float(text: str) -> float | ExactNumber:
    value = float(text)
    is_exact = math.isfinite(value) and _equals_decimal(value, text)
    return value if is_exact else ExactNumber(text)


def _equals_decimal(value: float, text: str) -> bool:
    try:
        return Decimal(repr(value)) == Decimal(text)
    except ArithmeticError:  # the exponent has more than eighteen digits
        return False


def _reject(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_int=_parse_int, parse_float=_parse_float, parse_constant=_reject)


def _as_fragment(value: Any) -> orjson.Fragment:
    if isinstance(value, ExactNumber):
        return orjson.Fragment(value.text)
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _as_placeholder(value: Any) -> str:
    if isinstance(value, ExactNumber):
        return f"{_PLACEHOLDER}{value.text}"
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def _deep_path(data: bytes, max_depth: int) -> str | None:
    """The path of the first value at depth `max_depth`, shortened; None if there is none."""
    path: list[str | int] = []
    name = ""
    for match in _STRUCTURE.finditer(data):
        token = match[0]
        if token in b"[{":
            path.append(0 if token == b"[" else "")
        elif token in b"]}":
            path = path[:-1]
        elif token == b":" and path:
            path[-1] = name
        elif token == b"," and path and isinstance(path[-1], int):
            path[-1] += 1
        else:
            name = token[1:-1][:_MAX_NAME_LENGTH].decode(errors="replace")
        if len(path) > max_depth:
            return ".".join(map(str, path[:_MAX_PATH_PARTS]))
    return None
