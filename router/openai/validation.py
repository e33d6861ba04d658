"""What OpenAI's bodies may ask, in the order of the native rules and with their texts.

Here temperature 0 is greedy, `top_p` may be 1, absent temperature means 1, and penalties count
the output alone. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from router.errors import Invalid
from router.openai.request_models import MOST_BIASES, Sampled
from router.requests.request import Bounds, Request, pick_seed
from router.requests.rules import check_ours
from shard.wire.protocol import Bias, Sampling


@dataclass(frozen=True, slots=True)
class Told:
    """Which log-probabilities a request wants beside its tokens."""

    logprobs: bool = False
    top: int = 0
    prompt: bool = False


def refuse(broken: bool, text: str) -> None:
    """Raises Invalid if a rule is broken."""
    if broken:
        raise Invalid(text)


def check_count(body: Sampled, bounds: Bounds) -> int:
    """How many choices are wanted. Raises Invalid."""
    count, most = 1 if body.n is None else body.n, bounds.max_best_of
    refuse(not 0 < count <= most, f"`n` must be > 0 and <= {most}. Given: {count}")
    return count


def validate(
    body: Sampled,
    bounds: Bounds,
    vocabulary: int,
    told: Told,
    pick: Callable[[], int] = pick_seed,
) -> Request:
    """The Request in `body`, but for its prompt. Raises Invalid with the first rule broken."""
    stops = _stops(body)
    _check_sampling(body)
    _check_counts(body, stops, bounds, told)
    check_ours(body, stops)
    bias = _biases(body, vocabulary)
    return Request(
        inputs="",
        sampling=_sampling(body, bias, pick),
        max_new_tokens=body.max_tokens,
        stop=tuple(stops),
        ignore_eos=body.ignore_eos,
        speculate=body.speculate,
        stream=body.stream,
        top_n_tokens=told.top,
        decoder_input_details=told.prompt,
        raw=told.logprobs,
        hidden=True,
        expected_new_tokens=body.expected_new_tokens,
        priority=body.priority,
        user=body.user,
        cache_salt=body.cache_salt,
    )


def _stops(body: Sampled) -> Sequence[str]:
    return [body.stop] if isinstance(body.stop, str) else body.stop or []


def _check_sampling(given: Sampled) -> None:
    refuse((given.temperature or 0.0) < 0, "`temperature` must be strictly positive")
    penalty = given.repetition_penalty
    refuse(penalty is not None and penalty <= 0, "`repetition_penalty` must be strictly positive")
    for name in ("frequency_penalty", "presence_penalty"):
        value = getattr(given, name) or 0.0
        refuse(not -2.0 <= value <= 2.0, f"`{name}` must be >= -2.0 and <= 2.0")
    top_p = 1.0 if given.top_p is None else given.top_p
    refuse(not 0.0 < top_p <= 1.0, "`top_p` must be > 0.0 and <= 1.0")
    refuse((given.top_k or 0) < -1, "`top_k` must be strictly positive")
    refuse(not 0.0 <= (given.min_p or 0.0) <= 1.0, "`min_p` must be >= 0.0 and <= 1.0")


def _check_counts(given: Sampled, stops: Sequence[str], bounds: Bounds, told: Told) -> None:
    refuse(given.max_tokens == 0, "`max_new_tokens` must be strictly positive")
    most = bounds.max_stop_sequences
    refuse(len(stops) > most, f"`stop` supports up to {most} stop sequences. Given: {len(stops)}")
    most = bounds.max_top_n_tokens
    refuse(told.top > most, f"`top_n_tokens` must be >= 0 and <= {most}. Given: {told.top}")


def _biases(given: Sampled, vocabulary: int) -> tuple[Bias, ...]:
    asked: Mapping[str, float] = given.logit_bias if isinstance(given.logit_bias, dict) else {}
    count = len(asked)
    refuse(count > MOST_BIASES, f"`logit_bias` supports up to {MOST_BIASES} tokens. Given: {count}")
    values = {_id(name, vocabulary): value for name, value in asked.items()}
    refuse(
        any(not -100.0 <= value <= 100.0 for value in values.values()),
        "`logit_bias` values must be >= -100.0 and <= 100.0",
    )
    return tuple(Bias(token, value) for token, value in sorted(values.items()))


def _id(name: str, vocabulary: int) -> int:
    plain = name.isascii() and name.isdecimal() and len(name) < 12
    refuse(not plain or int(name) >= vocabulary, f"`logit_bias` has no token for `{name[:20]}`")
    return int(name)


def _sampling(given: Sampled, bias: tuple[Bias, ...], pick: Callable[[], int]) -> Sampling:
    penalty = given.repetition_penalty
    plain = Sampling(
        repetition_penalty=1.0 if penalty is None else penalty,
        frequency_penalty=given.frequency_penalty or 0.0,
        presence_penalty=given.presence_penalty or 0.0,
        bias=bias,
        min_new_tokens=given.min_tokens or 0,
    )
    temperature = 1.0 if given.temperature is None else given.temperature
    if not temperature:
        return plain
    return replace(
        plain,
        seed=pick() if given.seed is None else given.seed % (1 << 64),
        temperature=temperature,
        top_k=max(given.top_k or 0, 0),
        top_p=1.0 if given.top_p is None else given.top_p,
        min_p=given.min_p or 0.0,
    )
