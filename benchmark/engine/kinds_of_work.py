"""Five kinds of work on which drafters differ: prompts, and the grammar of one of them.

Rule: decides texts; must not know models or who drafts. `number` makes prompts of a kind differ, so
that no request finds the answer of another.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from llguidance import LLMatcher

_NAMES = ("Ada", "Bruno", "Chiara", "Deniz", "Emil", "Fatima", "Goran", "Hanna")
_CITIES = ("Lisbon", "Oslo", "Kyoto", "Quito", "Tunis", "Riga", "Perth", "Turin")
_TOPICS = (
    "why the sky is blue",
    "how a bicycle stays upright",
    "what a hash table is",
    "how bread rises",
    "why ships float",
    "how vaccines work",
    "what inflation is",
    "how a violin makes sound",
)


def _name(number: int) -> str:
    return _NAMES[number % 8] + (str(number // 8) if number >= 8 else "")


def _city(number: int) -> str:
    return _CITIES[(number * 3 + number // 8) % 8]


def _chat(number: int) -> str:
    return f"Explain to {_name(number)} {_TOPICS[number % 8]}, in a few sentences."


def _edit(number: int) -> str:
    name = _name(number).lower()
    lines = [f"class {_name(number)}Account:"]
    for verb in ("deposit", "withdraw", "transfer", "freeze"):
        lines += [
            f"    def {verb}(self, amount):",
            f'        """Record a {verb} of {name} by amount."""',
            "        if amount <= 0:",
            f'            raise ValueError("{verb}: the amount must be positive")',
            f"        self.history.append(({verb!r}, amount))",
            "        return self.balance()",
            "",
        ]
    return (
        "Repeat this file exactly, with the class renamed to Account. Answer with the code"
        f" only.\n\n```python\n{chr(10).join(lines)}```"
    )


def _quote(number: int) -> str:
    name, city = _name(number), _city(number)
    return (
        f"Text: {name} left {city} on Monday with two boxes of letters. The train stopped twice"
        f" before the border because of snow. In the evening {name} slept at a small inn, whose"
        " owner refused any payment. On Tuesday the letters reached the archive, where they are"
        " kept to this day.\n\nQuote every sentence of the text in order, and summarize each."
    )


def _json(number: int) -> str:
    return f"Describe a parcel from {_name(number)} in {_city(number)} as JSON."


def _repetition(number: int) -> str:
    return f"Write the line '{_name(number)} counts the boats in {_city(number)}.' twenty times."


KINDS: dict[str, Callable[[int], str]] = {
    "chat": _chat,
    "edit": _edit,
    "quote": _quote,
    "json": _json,
    "repetition": _repetition,
}
"""By name, the text of request `number`."""

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "sender_full_name": {"type": "string", "maxLength": 24},
        "destination_city": {"enum": list(_CITIES)},
        "delivery_instructions": {"enum": ["leave at the door", "ring the bell twice"]},
        "insurance_required": {"type": "boolean"},
        "weight_in_kilograms": {"type": "integer", "minimum": 1, "maximum": 40},
        "estimated_arrival_days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "additionalProperties": False,
}
_SCHEMA["required"] = list(_SCHEMA["properties"])


def grammar(kind: str) -> str | None:
    """The grammar of the answers of `kind` in llguidance's format, as the router compiles it."""
    if kind != "json":
        return None
    options: Any = {"whitespace_pattern": "[ ]?"}
    return str(LLMatcher.grammar_from_json_schema(json.dumps(_SCHEMA), overrides=options))
