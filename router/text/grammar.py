"""Grammars of requests: parsed here, compiled to llguidance's format in a worker process.

A malicious JSON schema, regular expression or Lark grammar is answered with 422 and cannot delay
other requests. The shards get only grammars that have compiled.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum
from sys import getsizeof
from typing import Any

from router import exact_json
from router.errors import ValidationError
from router.text import schema_numbers
from router.text.job_errors import JobRejected, WorkerLimitExceeded
from router.text.schema_numbers import ChangedNumber
from router.text.worker_pool import WorkerPool

MAX_GRAMMAR_CHARACTERS = 1 << 18
"""Maximum length of a grammar's source."""
MAX_CACHED_BYTES = 32 << 20
"""Maximum size of all cached grammars, sources included."""


class GrammarKind(StrEnum):
    """The language of a grammar."""

    JSON = "json"
    REGEX = "regex"
    LARK = "lark"


_ERROR_PREFIXES = {GrammarKind.JSON: "cannot compile regex from schema: "}


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """The source text of a grammar; for a JSON schema, JSON."""

    kind: GrammarKind
    text: str


def parse_grammar(kind: str, value: Any) -> GrammarSource:
    """Parse the `grammar` parameter of the native API. Raises ValidationError.

    `json` and `json_object` take a JSON schema or its text, which must have `properties` as in TGI;
    `json_schema` takes `{"schema": …}`; `regex` and `lark` take text.
    """
    if kind in ("regex", "lark"):
        return GrammarSource(GrammarKind(kind), _require_text(value))
    schema = _load_if_text(value) if kind != "json_schema" else _unwrap_schema(value)
    if not isinstance(schema, dict) or "properties" not in schema:
        raise ValidationError("grammar is not valid: Grammar must have a 'properties' field")
    return from_schema(schema)


def from_schema(schema: Any) -> GrammarSource:
    """The grammar of a JSON schema, without its options for llguidance. Raises ValidationError."""
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise ValidationError("grammar is not valid: a JSON schema must be an object")
    check_numbers(schema)
    without_options = {key: value for key, value in schema.items() if key != "x-guidance"}
    return GrammarSource(GrammarKind.JSON, exact_json.dumps(without_options).decode())


def check_numbers(schema: Any) -> None:
    """Raise ValidationError for a number of `schema` that its compiled grammar would not keep."""
    try:
        schema_numbers.check_numbers(schema)
    except ChangedNumber as error:
        raise ValidationError(f"grammar is not valid: {error}") from error


class GrammarCompiler:
    """Compiles grammars and keeps the most recently used results."""

    def __init__(self, workers: WorkerPool, enabled: bool = True) -> None:
        self._workers, self._enabled = workers, enabled
        self._cache: OrderedDict[GrammarSource, str] = OrderedDict()
        self._cached_bytes = 0

    async def compile(self, source: GrammarSource | None) -> str | None:
        """`source` in llguidance's format; None for None. Raises ValidationError."""
        if source is None:
            return None
        if not self._enabled:
            raise ValidationError("grammar is not supported")
        text = self._cache.get(source)
        if text is None:
            text = await self._compile(source)
        self._keep(source, text)
        return text

    async def _compile(self, source: GrammarSource) -> str:
        prefix = _ERROR_PREFIXES.get(source.kind, "grammar is not valid: ")
        if len(source.text) > MAX_GRAMMAR_CHARACTERS:
            raise ValidationError(f"{prefix}it has more than {MAX_GRAMMAR_CHARACTERS} characters")
        try:
            return await self._workers.run_job("compile", kind=source.kind, text=source.text)
        except JobRejected as error:
            raise ValidationError(f"{prefix}{error}") from error
        except WorkerLimitExceeded as error:
            raise ValidationError(f"{prefix}it takes too much time or memory") from error

    def _keep(self, source: GrammarSource, text: str) -> None:
        """Cache `text`, which another request may have compiled too, as the most recently used."""
        if self._cache.pop(source, None) is None:
            self._cached_bytes += _size(source, text)
        self._cache[source] = text
        while self._cached_bytes > MAX_CACHED_BYTES:
            self._cached_bytes -= _size(*self._cache.popitem(last=False))


def _size(source: GrammarSource, text: str) -> int:
    """Bytes of one entry; a character takes 1 to 4."""
    return getsizeof(source.text) + getsizeof(text)


def _require_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValidationError("grammar is not valid: its value must be a string")
    return value


def _load_if_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return exact_json.loads(value)
    except ValueError as error:
        raise ValidationError(f"grammar is not valid: {error}") from error


def _unwrap_schema(value: Any) -> Any:
    return value.get("schema") if isinstance(value, dict) else None
