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

from router.errors import ValidationError
from router.text.chat_template import JobRejected
from router.text.worker_pool import WorkerLimitExceeded, WorkerPool

MAX_GRAMMAR_CHARACTERS = 1 << 18
"""Most characters of a grammar."""
MAX_CACHED_CHARACTERS = 1 << 24
"""Characters of compiled grammars that are kept."""


class GrammarKind(StrEnum):
    """What a grammar is written in."""

    JSON = "json"
    REGEX = "regex"
    LARK = "lark"


_ERROR_PREFIXES = {GrammarKind.JSON: "cannot compile regex from schema: "}


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """A grammar as its author wrote it; a JSON schema as JSON text."""

    kind: GrammarKind
    text: str


def parse_grammar(kind: str, value: Any) -> GrammarSource:
    """The native `grammar` parameter. Raises ValidationError.

    `json` and `json_object` take a schema or its text, with TGI's rule that it has `properties`;
    `json_schema` takes `{"schema": …}`; `regex` and `lark` take text.
    """
    if kind in ("regex", "lark"):
        return GrammarSource(GrammarKind(kind), _require_text(value))
    schema = _load_if_text(value) if kind != "json_schema" else _unwrap_schema(value)
    if not isinstance(schema, dict) or "properties" not in schema:
        raise ValidationError("grammar is not valid: Grammar must have a 'properties' field")
    return from_schema(schema)


def from_schema(schema: Any) -> GrammarSource:
    """Of any JSON schema; it cannot change how it is compiled. Raises ValidationError."""
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise ValidationError("grammar is not valid: a JSON schema is an object")
    plain = {key: value for key, value in schema.items() if key != "x-guidance"}
    return GrammarSource(GrammarKind.JSON, orjson.dumps(plain).decode())


class GrammarCompiler:
    """Compiles grammars and remembers what compiled."""

    def __init__(self, workers: WorkerPool, enabled: bool = True) -> None:
        self._workers, self._enabled = workers, enabled
        self._cache: OrderedDict[GrammarSource, str] = OrderedDict()
        self._cached_characters = 0

    async def compile(self, source: GrammarSource | None) -> str | None:
        """llguidance's form of `source`; None for none. Raises ValidationError."""
        if source is None:
            return None
        if not self._enabled:
            raise ValidationError("grammar is not supported")
        if source not in self._cache:
            self._add_to_cache(source, await self._compile(source))
        self._cache.move_to_end(source)
        return self._cache[source]

    async def _compile(self, source: GrammarSource) -> str:
        prefix = _ERROR_PREFIXES.get(source.kind, "grammar is not valid: ")
        if len(source.text) > MAX_GRAMMAR_CHARACTERS:
            raise ValidationError(f"{prefix}it has more than {MAX_GRAMMAR_CHARACTERS} characters")
        try:
            return await self._workers.run_job("compile", kind=source.kind, text=source.text)
        except JobRejected as fault:
            raise ValidationError(f"{prefix}{fault}") from fault
        except WorkerLimitExceeded as fault:
            raise ValidationError(f"{prefix}it takes too much time or memory") from fault

    def _add_to_cache(self, source: GrammarSource, text: str) -> None:
        self._cache[source] = text
        self._cached_characters += _characters(source, text)
        while self._cached_characters > MAX_CACHED_CHARACTERS:
            self._cached_characters -= _characters(*self._cache.popitem(last=False))


def _characters(source: GrammarSource, text: str) -> int:
    return len(source.text) + len(text)


def _require_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValidationError("grammar is not valid: its value is not a string")
    return value


def _load_if_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as fault:
        raise ValidationError(f"grammar is not valid: {fault}") from fault


def _unwrap_schema(value: Any) -> Any:
    return value.get("schema") if isinstance(value, dict) else None
