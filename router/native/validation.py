"""A native body becomes a Request: TGI's rules in TGI's order, with TGI's words.

`precheck` holds the rules that come before the permit, `validate` the rest. Parameters that the
engine does not have pass the same rules first and are then refused by name. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from router.native.request_models import GenerateParameters, GenerateRequest
from router.requests.request import (
    Request,
    ResolvedLimits,
    _reject_if,
    _strictly_between,
    random_seed,
)
from router.requests.rules import check_extensions
from shard.wire.protocol import Sampling


def precheck(parameters: GenerateParameters, bounds: ResolvedLimits, *, stream: bool) -> None:
    """The checks that come before the permit. Raises ValidationError."""
    count = 1 if parameters.best_of is None else parameters.best_of
    most = bounds.max_best_of
    _reject_if(most == 1 and count != 1, "`best_of` != 1 is not allowed for this endpoint")
    _reject_if(not 0 < count <= most, f"`best_of` must be > 0 and <= {most}. Given: {count}")
    _reject_if(stream and count != 1, "`best_of` != 1 is not supported when streaming tokens")
    _reject_if(
        stream and parameters.decoder_input_details,
        "`decoder_input_details` == true is not supported when streaming tokens",
    )


def validate(
    body: GenerateRequest,
    bounds: ResolvedLimits,
    *,
    stream: bool,
    new_seed: Callable[[], int] = random_seed,
) -> Request:
    """The Request in `body`. Raises ValidationError with the first rule broken, in TGI's order."""
    parameters = body.parameters
    _check_sampling(parameters)
    _check_counts(parameters, bounds)
    _check_input(body, bounds)
    check_extensions(parameters, parameters.stop)
    _check_unsupported(parameters)
    return Request(
        inputs=body.inputs,
        sampling=_sampling(parameters, bounds, new_seed),
        max_new_tokens=parameters.max_new_tokens,
        stop=tuple(parameters.stop),
        truncate=parameters.truncate,
        ignore_eos=parameters.ignore_eos_token,
        speculate=parameters.speculate,
        details=parameters.details or parameters.decoder_input_details,
        return_full_text=parameters.return_full_text,
        stream=stream,
        top_n_tokens=parameters.top_n_tokens or 0,
        decoder_input_details=parameters.decoder_input_details,
        best_of=parameters.best_of or 1,
        expected_new_tokens=parameters.expected_new_tokens,
        priority=parameters.priority,
        user=parameters.user,
        cache_salt=parameters.cache_salt,
    )


def _check_sampling(parameters: GenerateParameters) -> None:
    warped = (parameters.temperature, parameters.top_k, parameters.top_p, parameters.typical_p)
    sampling = parameters.do_sample or any(value is not None for value in warped)
    many = parameters.best_of is not None and parameters.best_of > 1
    _reject_if(many and not sampling, "you must use sampling when `best_of` is > 1")
    for name in ("temperature", "repetition_penalty"):
        positive = _strictly_between(getattr(parameters, name), 0.0, math.inf)
        _reject_if(not positive, f"`{name}` must be strictly positive")
    penalty = parameters.frequency_penalty or 0.0
    _reject_if(not -2.0 <= penalty <= 2.0, "`frequency_penalty` must be >= -2.0 and <= 2.0")
    _reject_if(not _strictly_between(parameters.top_p, 0.0, 1.0), "`top_p` must be > 0.0 and < 1.0")
    _reject_if(
        not _strictly_between(parameters.typical_p, 0.0, 1.0), "`typical_p` must be > 0.0 and < 1.0"
    )
    _reject_if(
        not _strictly_between(parameters.top_k, 0, math.inf), "`top_k` must be strictly positive"
    )


def _check_counts(parameters: GenerateParameters, bounds: ResolvedLimits) -> None:
    _reject_if(parameters.max_new_tokens == 0, "`max_new_tokens` must be strictly positive")
    stops, most = len(parameters.stop), bounds.max_stop_sequences
    _reject_if(stops > most, f"`stop` supports up to {most} stop sequences. Given: {stops}")
    many = parameters.best_of is not None and parameters.best_of > 1
    _reject_if(many and parameters.seed is not None, "`seed` must not be set when `best_of` > 1")
    top, most = parameters.top_n_tokens or 0, bounds.max_top_n_tokens
    _reject_if(top > most, f"`top_n_tokens` must be >= 0 and <= {most}. Given: {top}")


def _check_input(body: GenerateRequest, bounds: ResolvedLimits) -> None:
    _reject_if(not body.inputs, "`inputs` cannot be empty")
    kept, most = body.parameters.truncate, bounds.max_input_tokens
    _reject_if(
        kept is not None and not 0 < kept <= most,
        f"`truncate` must be strictly positive and less than {most}. Given: {kept}",
    )


def _check_unsupported(parameters: GenerateParameters) -> None:
    _reject_if(parameters.adapter_id is not None, "`adapter_id` is not supported")


def _sampling(
    parameters: GenerateParameters, bounds: ResolvedLimits, new_seed: Callable[[], int]
) -> Sampling:
    plain = Sampling(
        repetition_penalty=1.0
        if parameters.repetition_penalty is None
        else parameters.repetition_penalty,
        frequency_penalty=parameters.frequency_penalty or 0.0,
        min_new_tokens=parameters.min_new_tokens or 0,
    )
    if parameters.watermark:
        gamma, delta = bounds.watermark_gamma, bounds.watermark_delta
        plain = replace(plain, watermark=True, watermark_gamma=gamma, watermark_delta=delta)
    cut = any(
        value is not None for value in (parameters.top_k, parameters.top_p, parameters.typical_p)
    )
    if not (parameters.do_sample or cut or parameters.temperature not in (None, 1.0)):
        return plain
    return replace(
        plain,
        seed=new_seed() if parameters.seed is None else parameters.seed,
        temperature=parameters.temperature or 1.0,
        top_k=parameters.top_k or 0,
        top_p=1.0 if parameters.top_p is None else parameters.top_p,
        typical_p=1.0 if parameters.typical_p is None else parameters.typical_p,
    )
