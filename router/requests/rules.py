"""How a broken rule is reported: one function, whose text names the field."""

from __future__ import annotations

from router.errors import ValidationError


def require(condition: bool, text: str) -> None:
    """Raise ValidationError with `text` unless `condition` holds."""
    if not condition:
        raise ValidationError(text)
