"""Rules of OpenAI's bodies, in the order of the native rules and with their texts.

Here temperature 0 is greedy, `top_p` may be 1, an absent temperature is 1, and penalties count
the output alone. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from router.native import parameters
from router.native.parameters import (
    RANGES,
    ValueRange,
    build_sampling,
    check_extensions,
    request_fields,
)
from router.openai.request_models import MAX_LOGIT_BIASES, CommonParameters
from router.requests.request import Request, ResolvedLimits, random_seed
from router.requests.rules import require
from shard.wire.protocol import LogitBias, Sampling

_RANGES = {
    **RANGES,
    "temperature": ValueRange(lambda value: value >= 0, "strictly positive"),
    "top_p": ValueRange(lambda value: 0.0 < value <= 1.0, "> 0.0 and <= 1.0"),
    "top_k": ValueRange(lambda value: value >= -1, "strictly positive"),
}


@dataclass(frozen=True, slots=True)
class LogprobOptions:
    """Which log-probabilities to return with the tokens."""

    logprobs: bool = False
    top_n: int = 0
    """Number of most likely tokens at each position."""
    max_top_n: int = 0
    top_n_field: str = "top_logprobs"
    """Name of the request's field that holds `top_n`."""
    include_prompt: bool = False


def check_ranges(body: CommonParameters) -> None:
    """Check every number that is set. Raises ValidationError for the first outside its range."""
    parameters.check_ranges(body, _RANGES)


def validated_choice_count(body: CommonParameters, bounds: ResolvedLimits) -> int:
    """The number of choices for each prompt. Raises ValidationError."""
    count, limit = 1 if body.n is None else body.n, bounds.max_best_of
    require(0 < count <= limit, f"`n` must be > 0 and <= {limit}. Given: {count}")
    return count


def validate(
    body: CommonParameters,
    bounds: ResolvedLimits,
    vocabulary_size: int,
    logprob_options: LogprobOptions,
    new_seed: Callable[[], int] = random_seed,
) -> Request:
    """The Request in `body`, without its prompt. Raises ValidationError with the first broken
    rule.
    """
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    check_ranges(body)
    _check_counts(body, stops, bounds, logprob_options)
    check_extensions(body, stops)
    bias = _logit_bias(body, vocabulary_size)
    return Request(
        inputs="",
        sampling=_sampling(body, bias, new_seed),
        max_new_tokens=body.token_limit,
        stop=tuple(stops),
        stream=body.stream,
        top_n_tokens=logprob_options.top_n,
        decoder_input_details=logprob_options.include_prompt,
        raw_logprobs=logprob_options.logprobs,
        hide_stops_and_specials=True,
        **request_fields(body),
    )


def _check_counts(
    body: CommonParameters,
    stops: Sequence[str],
    bounds: ResolvedLimits,
    logprob_options: LogprobOptions,
) -> None:
    require(body.token_limit != 0, f"`{body.token_limit_field}` must be strictly positive")
    count, limit = len(stops), bounds.max_stop_sequences
    require(count <= limit, f"`stop` supports up to {limit} stop sequences. Given: {count}")
    count, limit = logprob_options.top_n, logprob_options.max_top_n
    field = logprob_options.top_n_field
    require(count <= limit, f"`{field}` must be >= 0 and <= {limit}. Given: {count}")


def _logit_bias(body: CommonParameters, vocabulary_size: int) -> tuple[LogitBias, ...]:
    entries: Mapping[str, float] = body.logit_bias if isinstance(body.logit_bias, dict) else {}
    count = len(entries)
    require(
        count <= MAX_LOGIT_BIASES,
        f"`logit_bias` supports up to {MAX_LOGIT_BIASES} tokens. Given: {count}",
    )
    values = {_token_id(name, vocabulary_size): value for name, value in entries.items()}
    require(
        all(-100.0 <= value <= 100.0 for value in values.values()),
        "`logit_bias` values must be >= -100.0 and <= 100.0",
    )
    return tuple(LogitBias(token, value) for token, value in sorted(values.items()))


def _token_id(name: str, vocabulary_size: int) -> int:
    is_number = name.isascii() and name.isdecimal() and len(name) < 12
    require(
        is_number and int(name) < vocabulary_size, f"`logit_bias` has no token for `{name[:20]}`"
    )
    return int(name)


def _sampling(
    body: CommonParameters, bias: tuple[LogitBias, ...], new_seed: Callable[[], int]
) -> Sampling:
    derived: dict[str, Any] = {"bias": bias, "top_k": max(body.top_k or 0, 0)}
    if body.seed is not None:
        derived["seed"] = body.seed % (1 << 64)
    return build_sampling(body, greedy=body.temperature == 0, new_seed=new_seed, **derived)
