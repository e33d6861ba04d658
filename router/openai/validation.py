"""What OpenAI's bodies may ask, in the order of the native rules and with their texts.

Here temperature 0 is greedy, `top_p` may be 1, absent temperature means 1, and penalties count
the output alone. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from router.errors import ValidationError
from router.openai.request_models import MAX_LOGIT_BIASES, CommonParameters
from router.requests.request import Request, ResolvedLimits, random_seed
from router.requests.rules import check_extensions
from shard.wire.protocol import LogitBias, Sampling


@dataclass(frozen=True, slots=True)
class LogprobOptions:
    """Which log-probabilities a request wants beside its tokens."""

    logprobs: bool = False
    top_n: int = 0
    include_prompt: bool = False


def reject_if(violated: bool, text: str) -> None:
    """Raises ValidationError if a rule is broken."""
    if violated:
        raise ValidationError(text)


def validated_choice_count(body: CommonParameters, bounds: ResolvedLimits) -> int:
    """How many choices are wanted. Raises ValidationError."""
    count, most = 1 if body.n is None else body.n, bounds.max_best_of
    reject_if(not 0 < count <= most, f"`n` must be > 0 and <= {most}. Given: {count}")
    return count


def validate(
    body: CommonParameters,
    bounds: ResolvedLimits,
    vocabulary_size: int,
    logprob_options: LogprobOptions,
    new_seed: Callable[[], int] = random_seed,
) -> Request:
    """The Request in `body`, but for its prompt. Raises ValidationError with the first rule
    broken.
    """
    stops = _stops(body)
    _check_sampling(body)
    _check_counts(body, stops, bounds, logprob_options)
    check_extensions(body, stops)
    bias = _logit_bias(body, vocabulary_size)
    return Request(
        inputs="",
        sampling=_sampling(body, bias, new_seed),
        max_new_tokens=body.max_tokens,
        stop=tuple(stops),
        ignore_eos=body.ignore_eos,
        speculate=body.speculate,
        stream=body.stream,
        top_n_tokens=logprob_options.top_n,
        decoder_input_details=logprob_options.include_prompt,
        raw_logprobs=logprob_options.logprobs,
        hide_stops_and_specials=True,
        expected_new_tokens=body.expected_new_tokens,
        priority=body.priority,
        user=body.user,
        cache_salt=body.cache_salt,
    )


def _stops(body: CommonParameters) -> Sequence[str]:
    return [body.stop] if isinstance(body.stop, str) else body.stop or []


def _check_sampling(body: CommonParameters) -> None:
    reject_if((body.temperature or 0.0) < 0, "`temperature` must be strictly positive")
    penalty = body.repetition_penalty
    reject_if(
        penalty is not None and penalty <= 0, "`repetition_penalty` must be strictly positive"
    )
    for name in ("frequency_penalty", "presence_penalty"):
        value = getattr(body, name) or 0.0
        reject_if(not -2.0 <= value <= 2.0, f"`{name}` must be >= -2.0 and <= 2.0")
    top_p = 1.0 if body.top_p is None else body.top_p
    reject_if(not 0.0 < top_p <= 1.0, "`top_p` must be > 0.0 and <= 1.0")
    reject_if((body.top_k or 0) < -1, "`top_k` must be strictly positive")
    reject_if(not 0.0 <= (body.min_p or 0.0) <= 1.0, "`min_p` must be >= 0.0 and <= 1.0")


def _check_counts(
    body: CommonParameters,
    stops: Sequence[str],
    bounds: ResolvedLimits,
    logprob_options: LogprobOptions,
) -> None:
    reject_if(body.max_tokens == 0, "`max_new_tokens` must be strictly positive")
    most = bounds.max_stop_sequences
    reject_if(
        len(stops) > most, f"`stop` supports up to {most} stop sequences. Given: {len(stops)}"
    )
    most = bounds.max_top_n_tokens
    reject_if(
        logprob_options.top_n > most,
        f"`top_n_tokens` must be >= 0 and <= {most}. Given: {logprob_options.top_n}",
    )


def _logit_bias(body: CommonParameters, vocabulary_size: int) -> tuple[LogitBias, ...]:
    asked: Mapping[str, float] = body.logit_bias if isinstance(body.logit_bias, dict) else {}
    count = len(asked)
    reject_if(
        count > MAX_LOGIT_BIASES,
        f"`logit_bias` supports up to {MAX_LOGIT_BIASES} tokens. Given: {count}",
    )
    values = {_token_id(name, vocabulary_size): value for name, value in asked.items()}
    reject_if(
        any(not -100.0 <= value <= 100.0 for value in values.values()),
        "`logit_bias` values must be >= -100.0 and <= 100.0",
    )
    return tuple(LogitBias(token, value) for token, value in sorted(values.items()))


def _token_id(name: str, vocabulary_size: int) -> int:
    plain = name.isascii() and name.isdecimal() and len(name) < 12
    reject_if(
        not plain or int(name) >= vocabulary_size, f"`logit_bias` has no token for `{name[:20]}`"
    )
    return int(name)


def _sampling(
    body: CommonParameters, bias: tuple[LogitBias, ...], new_seed: Callable[[], int]
) -> Sampling:
    penalty = body.repetition_penalty
    plain = Sampling(
        repetition_penalty=1.0 if penalty is None else penalty,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        bias=bias,
        min_new_tokens=body.min_tokens or 0,
    )
    temperature = 1.0 if body.temperature is None else body.temperature
    if not temperature:
        return plain
    return replace(
        plain,
        seed=new_seed() if body.seed is None else body.seed % (1 << 64),
        temperature=temperature,
        top_k=max(body.top_k or 0, 0),
        top_p=1.0 if body.top_p is None else body.top_p,
        min_p=body.min_p or 0.0,
    )
