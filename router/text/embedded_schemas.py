"""Finds the JSON schemas inside a Lark grammar, which llguidance has after `%json`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from router import exact_json

LARK_LITERAL = re.compile(r'"(?:\\.|[^"\\])*"?|(?://|#)[^\n]*|/(?:\\.|[^/\\])+/?|<[^<>\s]+>')
"""A string, a comment, a regular expression or a special token of a Lark grammar; the first three
also if they are not closed."""
_SCHEMA_START = re.compile(rf"(?P<literal>{LARK_LITERAL.pattern})|%json\b\s*")


def embedded_schemas(lark: str) -> Iterator[Any]:
    """The value after each `%json` that is not inside a literal.

    Raises ValueError for one that is not JSON, or is nested too deep.
    """
    position = 0
    while match := _SCHEMA_START.search(lark, position):
        position = match.end()
        if match["literal"] is None:
            value, position = exact_json.load_prefix(lark, position)
            yield value
