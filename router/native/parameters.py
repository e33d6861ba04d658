"""The parameters that both APIs share: declared once, checked, and turned into `Sampling`.

Rule: a body field that has the name of a `Sampling` field is that field's value, and its range is
one line of `RANGES`. What the APIs treat differently is passed in as a value. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pydantic import AliasChoices, Field

from router.http.json_body import I32, U32, Body, Float32
from router.requests.request import Request
from router.requests.rules import require
from shard.wire.protocol import Sampling

MAX_SPECULATE = 64
MAX_STOP_LENGTH = 1000
MAX_NAME_LENGTH = 256
"""Maximum number of characters of `user` and of `cache_salt`."""


class SharedParameters(Body):
    """Generation parameters of the native and of OpenAI's routes."""

    temperature: Float32 | None = None
    """Sampling temperature: higher values make the output more random. Must be positive; on the
    OpenAI routes 0 means greedy decoding and the default is the model's, or 1. Below 1e-5 decoding
    is greedy."""
    top_k: I32 | None = None
    """Sample from the k most likely tokens only. On the OpenAI routes 0 and -1 keep all tokens."""
    top_p: Float32 | None = None
    """Nucleus sampling: sample from the smallest set of most likely tokens whose probabilities
    add up to `top_p`. Between 0 and 1, exclusive; on the OpenAI routes 1 is allowed."""
    repetition_penalty: Float32 | None = None
    """Penalty on every token of the prompt and the output so far. Must be positive; 1 means no
    penalty."""
    frequency_penalty: Float32 | None = None
    """Subtracted from a token's score for each time that the token is in the output so far.
    Between -2 and 2."""
    min_new_tokens: U32 | None = Field(
        default=None, validation_alias=AliasChoices("min_tokens", "min_new_tokens")
    )
    """Minimum number of tokens to generate before an end-of-sequence token is allowed. Also
    accepted as `min_new_tokens`."""
    ignore_eos: bool = Field(
        default=False, validation_alias=AliasChoices("ignore_eos", "ignore_eos_token")
    )
    """Continue generating after an end-of-sequence token. Also accepted as `ignore_eos_token`."""
    speculate: I32 | None = None
    """Maximum number of tokens to draft per decoding step, 0 to 64; defaults to the server's
    setting."""
    expected_new_tokens: U32 | None = None
    """Expected number of output tokens. A scheduling hint that does not limit the output."""
    priority: I32 = 0
    """Scheduling priority; requests with lower values are served first."""
    user: str | None = None
    """End-user id, used for fair scheduling between users."""
    cache_salt: str | None = None
    """Share cached prompt prefixes only with requests that have the same salt."""
    draft_details: bool = False
    """Report for each token whether it was drafted, and how many drafted tokens were rejected in
    favor of it: on the native routes with the token, in chats and responses with its
    log-probability."""


@dataclass(frozen=True, slots=True)
class ValueRange:
    """The values that a parameter may have, and the end of the sentence that says so."""

    contains: Callable[[float], bool]
    text: str


_POSITIVE = ValueRange(lambda value: value > 0, "strictly positive")
_PENALTY = ValueRange(lambda value: -2.0 <= value <= 2.0, ">= -2.0 and <= 2.0")
_OPEN_UNIT = ValueRange(lambda value: 0.0 < value < 1.0, "> 0.0 and < 1.0")
RANGES: Mapping[str, ValueRange] = {
    "temperature": _POSITIVE,
    "repetition_penalty": _POSITIVE,
    "frequency_penalty": _PENALTY,
    "presence_penalty": _PENALTY,
    "top_p": _OPEN_UNIT,
    "typical_p": _OPEN_UNIT,
    "top_k": _POSITIVE,
    "min_p": ValueRange(lambda value: 0.0 <= value <= 1.0, ">= 0.0 and <= 1.0"),
}
"""TGI's ranges, texts and order; those of parameters that TGI does not have come in between."""
GREEDY_BELOW = 1e-5
"""At a lower temperature the most likely token is certain, and quotients would leave float32."""
WARPERS = ("temperature", "top_k", "top_p", "typical_p", "min_p")
"""Parameters without effect on greedy decoding."""
_SAMPLING_FIELDS = frozenset(field.name for field in fields(Sampling))
_REQUEST_FIELDS = SharedParameters.model_fields.keys() & {field.name for field in fields(Request)}


def check_ranges(parameters: SharedParameters, ranges: Mapping[str, ValueRange]) -> None:
    """Check every value that is set. Raises ValidationError for the first outside its range."""
    values = dict(parameters)
    for name, allowed in ranges.items():
        value = values.get(name)
        require(value is None or allowed.contains(value), f"`{name}` must be {allowed.text}")


def check_extensions(parameters: SharedParameters, stops: Sequence[str]) -> None:
    """The rules that come after all of TGI's, on every route. Raises ValidationError."""
    draft = parameters.speculate or 0
    require(
        0 <= draft <= MAX_SPECULATE,
        f"`speculate` must be >= 0 and <= {MAX_SPECULATE}. Given: {draft}",
    )
    require(
        all(0 < len(text) <= MAX_STOP_LENGTH for text in stops),
        f"`stop` sequences must be 1 to {MAX_STOP_LENGTH} characters long",
    )
    require(parameters.expected_new_tokens != 0, "`expected_new_tokens` must be strictly positive")
    require(
        len(parameters.user or "") <= MAX_NAME_LENGTH,
        f"`user` must be at most {MAX_NAME_LENGTH} characters long",
    )
    salt = parameters.cache_salt
    require(
        salt is None or 0 < len(salt) <= MAX_NAME_LENGTH,
        f"`cache_salt` must be 1 to {MAX_NAME_LENGTH} characters long",
    )


def set_warpers(parameters: SharedParameters) -> frozenset[str]:
    """The names of the warpers that have a value."""
    return frozenset(name for name, value in parameters if name in WARPERS and value is not None)


def request_fields(parameters: SharedParameters) -> dict[str, Any]:
    """The fields of `Request` that have the names of shared parameters."""
    return {name: value for name, value in parameters if name in _REQUEST_FIELDS}


def build_sampling(
    parameters: SharedParameters, *, greedy: bool, new_seed: Callable[[], int], **derived: Any
) -> Sampling:
    """The `Sampling` that `parameters` describe; a field without a value is neutral.

    `derived` holds the fields that the body has in another form. Without a seed `new_seed` gives
    one; greedy decoding has neither seed nor warpers. A temperature below GREEDY_BELOW is greedy.
    """
    given = {name: value for name, value in parameters if value is not None}
    values = {name: given[name] for name in given.keys() & _SAMPLING_FIELDS} | derived
    if greedy or values.get("temperature", 1.0) < GREEDY_BELOW:
        return Sampling(**{name: values[name] for name in values.keys() - {"seed", *WARPERS}})
    return Sampling(**{"temperature": 1.0, "seed": new_seed(), **values})
