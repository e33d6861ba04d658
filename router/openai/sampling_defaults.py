"""The model's own sampling values: what OpenAI's routes use where the client sends none.

They are read once, from `generation_config.json`, and checked by the rules for a client's values.
What breaks a rule is left out, with one warning. Nothing here knows a request's prompt or a token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel

from router.errors import RouterError
from router.http.json_body import validate_body
from router.openai.request_models import CommonParameters
from router.openai.validation import check_ranges
from router.requests.rules import require

FILE = "generation_config.json"
FIELDS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
"""Fields of the file that are request fields of the same name, as in vLLM."""
_MAX_REPR = 40

AnyModel = TypeVar("AnyModel", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Valid values by request field. Without any, a request means what it means at OpenAI."""

    values: Mapping[str, float] = field(default_factory=dict)
    max_new_tokens: int | None = None
    """Maximum number of tokens of a chat or response whose request has no limit; None: as many as
    fit."""
    warning: str | None = None
    """One line about the values that were left out."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The defaults of the model in `folder`; none if it has no `generation_config.json`."""
        path = folder / FILE
        if not path.exists():
            return cls()
        try:
            config = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return cls(warning=f"{FILE} has no defaults for requests: it cannot be read as JSON")
        if not isinstance(config, dict):
            return cls(warning=f"{FILE} has no defaults for requests: it is not a JSON object")
        return cls.from_config(config)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The defaults in the content of `generation_config.json`.

        `do_sample: false` is greedy decoding, whatever the temperature, as in transformers.
        """
        valid, invalid = _split_fields(config)
        values = {name: valid[name] for name in FIELDS if name in valid}
        if valid.get("do_sample") is False:
            values["temperature"] = 0.0
        return cls(values, valid.get("max_new_tokens"), _warning(config, invalid))

    def fill(self, body: AnyModel) -> AnyModel:
        """`body` with these values in the fields that it has and that are not set."""
        missing = {
            name: value
            for name, value in self.values.items()
            if name in type(body).model_fields and getattr(body, name) is None
        }
        return body.model_copy(update=missing)

    def __str__(self) -> str:
        limit = {} if self.max_new_tokens is None else {"max_new_tokens": self.max_new_tokens}
        texts = {name: f"{value:g}" for name, value in self.values.items()} | limit
        return ", ".join(f"{name} {text}" for name, text in texts.items())


def _split_fields(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values that a request could have, as it would have them, and the names of the others."""
    valid, invalid = dict[str, Any](), list[str]()
    for name, parse in _PARSERS.items():
        if config.get(name) is None:
            continue
        try:
            valid[name] = parse(name, config[name])
        except RouterError:
            invalid.append(name)
    return valid, invalid


def _parse_field(name: str, value: Any) -> float:
    """`value` as the request field `name`. Raises RouterError."""
    body = validate_body({name: value}, CommonParameters)
    check_ranges(body)
    parsed: float = getattr(body, name)
    return parsed


def _parse_limit(name: str, value: Any) -> float:
    require(value != 0, f"`{name}` must be strictly positive")
    return _parse_field("max_tokens", value)


def _parse_switch(name: str, value: Any) -> bool:
    require(isinstance(value, bool), f"`{name}` must be true or false")
    return bool(value)


_PARSERS: Mapping[str, Callable[[str, Any], float]] = {
    "do_sample": _parse_switch,
    **dict.fromkeys(FIELDS, _parse_field),
    "max_new_tokens": _parse_limit,
}
"""How each field of the file is checked. The others do not concern requests."""


def _warning(config: Mapping[str, Any], invalid: list[str]) -> str | None:
    if not invalid:
        return None
    named = ", ".join(f"`{name}` {str(config[name])[:_MAX_REPR]}" for name in invalid)
    return f"{FILE}: values that no request could have are ignored: {named}"
