"""What an output must match: from a client's words to llguidance's form, checked once.

JSON schemas, regular expressions and Lark grammars are compiled in a worker process, so that a
hostile one costs its sender a 422 and nobody else anything; the shards see only what compiled.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from router.errors import Invalid
from router.text.chat_template import Refused
from router.text.worker_pool import Exhausted, Workers

LONGEST = 1 << 18
"""Most characters of a grammar."""
REMEMBERED = 1 << 24
"""Characters of compiled grammars that are kept."""


class Kind(StrEnum):
    """What a grammar is written in."""

    JSON = "json"
    REGEX = "regex"
    LARK = "lark"


_FAULTS = {Kind.JSON: "cannot compile regex from schema: "}


@dataclass(frozen=True, slots=True)
class Source:
    """A grammar as its author wrote it; a JSON schema as JSON text."""

    kind: Kind
    text: str


def read(kind: str, value: Any) -> Source:
    """The native `grammar` parameter. Raises Invalid.

    `json` and `json_object` take a schema or its text, with TGI's rule that it has `properties`;
    `json_schema` takes `{"schema": …}`; `regex` and `lark` take text.
    """
    if kind in ("regex", "lark"):
        return Source(Kind(kind), _text(value))
    schema = _loaded(value) if kind != "json_schema" else _wrapped(value)
    if not isinstance(schema, dict) or "properties" not in schema:
        raise Invalid("grammar is not valid: Grammar must have a 'properties' field")
    return from_schema(schema)


def from_schema(schema: Any) -> Source:
    """Of any JSON schema; it cannot change how it is compiled. Raises Invalid."""
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise Invalid("grammar is not valid: a JSON schema is an object")
    plain = {key: value for key, value in schema.items() if key != "x-guidance"}
    return Source(Kind.JSON, orjson.dumps(plain).decode())


class Grammars:
    """Compiles grammars and remembers what compiled."""

    def __init__(self, workers: Workers, enabled: bool = True) -> None:
        self._workers, self._enabled = workers, enabled
        self._known: OrderedDict[Source, str] = OrderedDict()
        self._size = 0

    async def compile(self, source: Source | None) -> str | None:
        """llguidance's form of `source`; None for none. Raises Invalid."""
        if source is None:
            return None
        if not self._enabled:
            raise Invalid("grammar is not supported")
        if source not in self._known:
            self._remember(source, await self._compiled(source))
        self._known.move_to_end(source)
        return self._known[source]

    async def _compiled(self, source: Source) -> str:
        prefix = _FAULTS.get(source.kind, "grammar is not valid: ")
        if len(source.text) > LONGEST:
            raise Invalid(f"{prefix}it has more than {LONGEST} characters")
        try:
            return await self._workers.run("compile", kind=source.kind, text=source.text)
        except Refused as fault:
            raise Invalid(f"{prefix}{fault}") from fault
        except Exhausted as fault:
            raise Invalid(f"{prefix}it takes too much time or memory") from fault

    def _remember(self, source: Source, text: str) -> None:
        self._known[source] = text
        self._size += _weight(source, text)
        while self._size > REMEMBERED:
            self._size -= _weight(*self._known.popitem(last=False))


def _weight(source: Source, text: str) -> int:
    return len(source.text) + len(text)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Invalid("grammar is not valid: its value is not a string")
    return value


def _loaded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as fault:
        raise Invalid(f"grammar is not valid: {fault}") from fault


def _wrapped(value: Any) -> Any:
    return value.get("schema") if isinstance(value, dict) else None
