"""Which numbers of a JSON schema a compiled grammar keeps.

llguidance reads numbers as 64-bit floats, and writes those beyond 64-bit integers with the fewest
digits. A number that it would change is refused. Pure.
"""

from __future__ import annotations

from decimal import Decimal
from numbers import Number
from typing import Any

from router import exact_json

_VALUES = frozenset(("const", "enum"))
"""Keywords of JSON Schema whose numbers are written as they are."""
_BOUNDS = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"))
"""Keywords whose numbers limit others."""
_SUBSCHEMA_MAPS = frozenset(
    ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
)
"""Keywords with an object of schemas, whose keys are not keywords."""
_ANNOTATIONS = frozenset(("default", "examples", "description", "title", "$comment"))


class ChangedNumber(ValueError):
    """A number that the compiled grammar would not have; the text names its keyword."""


def check_numbers(schema: Any) -> None:
    """Raise ChangedNumber for a number of `schema` that its compiled grammar would not keep."""
    pending = [schema]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, dict):
            for name, part in value.items():
                if name in _VALUES | _BOUNDS:
                    _require_kept(name, part)
                elif name in _SUBSCHEMA_MAPS and isinstance(part, dict):
                    pending.extend(part.values())
                elif name not in _ANNOTATIONS:
                    pending.append(part)


def _require_kept(keyword: str, value: Any) -> None:
    for part in exact_json.nested_values(value):
        if isinstance(part, bool) or not isinstance(part, Number):
            continue
        if not exact_json.is_float_exact(part):
            raise ChangedNumber(
                f"`{keyword}` has a number that 64-bit floats cannot hold: {str(part)[:40]}"
            )
        if keyword in _VALUES and not _keeps_digits(part):
            raise ChangedNumber(
                f"`{keyword}` has a number that would be written with other digits:"
                f" {str(part)[:40]}"
            )


def _keeps_digits(value: Any) -> bool:
    """Whether `value`, which a float holds, has the digits that llguidance writes."""
    if isinstance(value, float):
        return True
    integer = int(str(value))
    return abs(integer) < 1 << 63 or Decimal(repr(float(integer))) == integer
