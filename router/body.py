"""JSON bytes become a typed body, or an error that names the field.

Strict pydantic models of what TGI's native routes take: no bool as a number, no "5" as 5, every
integer bounded by its type, floats rounded to float32 before anyone compares them. Unknown fields
are ignored and an explicit null equals an absent field, at every depth. What the values mean
together is `request`'s business. Nothing takes long: a body of too many values is refused before
it is parsed, and the first wrong value ends the reading.
"""

from __future__ import annotations

import struct
from typing import Annotated, Any, Literal, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from router.errors import Malformed, Mistyped


def _float32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError as fault:
        raise ValueError("number out of range of float32") from fault


Float = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_float32)]
U32 = Annotated[int, Field(ge=0, lt=1 << 32)]
U64 = Annotated[int, Field(ge=0, lt=1 << 64)]
I32 = Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)]
Strings = Annotated[list[str], Field(fail_fast=True)]
Json = Any
"""Any value of a parsed body; pydantic's JsonValue would look at each part of it once more."""

_PARTS = (b",", b"[", b"{")
MOST_VALUES = 1 << 16
"""Values of one body, beside those that may be token ids: numbers, texts, arrays, objects."""


class Body(BaseModel):
    """Strict types, unknown fields ignored, null as good as absent."""

    model_config = ConfigDict(
        strict=True, extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: field for name, field in value.items() if field is not None}


class Grammar(Body):
    """A constraint on the output."""

    type: Literal["json", "json_object", "json_schema", "regex", "lark"]
    value: Json


class Parameters(Body):
    """TGI's generation parameters and ours."""

    best_of: U64 | None = None
    """Out of how many sequences the likeliest is the answer; needs sampling."""
    temperature: Float | None = None
    """Divides the scores; above 0."""
    repetition_penalty: Float | None = None
    """Of every token in prompt and output; above 0, 1 is neutral."""
    frequency_penalty: Float | None = None
    """Times a token's count in the output, taken from its score; -2 to 2."""
    top_k: I32 | None = None
    """Sample from so many of the likeliest tokens."""
    top_p: Float | None = None
    """Sample from the likeliest tokens that together have this probability; between 0 and 1."""
    typical_p: Float | None = None
    """Sample from the most typical tokens that together have this probability."""
    do_sample: bool = False
    """Sample, although no parameter asks for it; true without any `parameters`."""
    max_new_tokens: U32 | None = None
    """Most tokens to generate; null: as many as fit."""
    return_full_text: bool | None = None
    """Whether the prompt stands before the generated text; null: as the route has it."""
    stop: Strings = Field(default_factory=list)
    """Texts after which generation ends; they stay in the output."""
    truncate: U64 | None = None
    """Keep so many of the prompt's last tokens."""
    watermark: bool = False
    """Favour a list of tokens that the token before decides (Kirchenbauer et al. 2023)."""
    details: bool = False
    """Tell tokens, log-probabilities and how it ended."""
    decoder_input_details: bool = False
    """Tell the prompt's tokens and log-probabilities too; not with a stream."""
    seed: U64 | None = None
    """Of the sampling; null: a fresh one, which is told."""
    top_n_tokens: U32 | None = None
    """Tell so many of the likeliest tokens at each place."""
    grammar: Grammar | None = None
    """What the output must match."""
    adapter_id: str | None = None
    """Not supported: refused by name."""
    speculate: I32 | None = None
    """Most tokens drafted in a round, 0 to 64; null: as the server has it."""
    ignore_eos_token: bool = Field(
        default=False, validation_alias=AliasChoices("ignore_eos_token", "ignore_eos")
    )
    """Go on after the token that ends a text."""
    min_new_tokens: U32 | None = Field(
        default=None, validation_alias=AliasChoices("min_new_tokens", "min_tokens")
    )
    """The text does not end before so many tokens."""
    expected_new_tokens: U32 | None = None
    """About how many tokens will come, if the caller knows; the scheduler trusts it at first."""
    priority: I32 = 0
    """Lower goes first."""
    user: str | None = None
    """On whose behalf; told apart by the scheduler."""
    cache_salt: str | None = None
    """Share cached prompts only with those who give the same."""


class Generate(Body):
    """Body of `/generate*`. As in TGI, no `parameters` at all means sampling, `{}` does not."""

    inputs: str
    parameters: Parameters = Parameters(do_sample=True)


class CompatGenerate(Generate):
    """Body of `/`."""

    stream: bool = False


AnyBody = TypeVar("AnyBody", bound=Body)


def read(body: bytes, kind: type[AnyBody], most: int = MOST_VALUES) -> AnyBody:
    """`body` as a `kind`.

    Raises Malformed (not JSON) or Mistyped (names the first wrong field, or says that there are
    more than `most` values).
    """
    return typed(parse_json(body, most), kind)


def typed(value: Any, kind: type[AnyBody]) -> AnyBody:
    """A parsed `value` as a `kind`. Raises Mistyped, which names the first wrong field."""
    try:
        return kind.model_validate(value)
    except ValidationError as fault:
        raise Mistyped(_reason(fault)) from fault


def parse_json(body: bytes, most: int = MOST_VALUES) -> Any:
    """What `body` says. Raises Malformed, or Mistyped for more than `most` values."""
    if len(body) > most and _crowded(body, most):
        raise Mistyped(f"body: it holds more than {most} values")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as fault:
        raise Malformed(str(fault)) from fault


def _crowded(body: bytes, most: int) -> bool:
    """Whether there are more than `most` values: commas and openings outside of strings."""
    if sum(map(body.count, _PARTS)) <= most:
        return False
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if plain.count(b'"') > 4 * most:  # a value has at most a name and a text
        return True
    outside = b"".join(plain.split(b'"')[::2])
    return sum(map(outside.count, _PARTS)) > most


def _reason(fault: ValidationError) -> str:
    first = fault.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(map(str, first["loc"])) or "body"
    text = "Input should be an object" if first["type"] == "model_type" else first["msg"]
    return f"{field}: {text}"
