"""A native body becomes a Request: TGI's rules in TGI's order, with TGI's words.

`precheck` holds the rules that come before the permit, `validate` the rest. Parameters that the
engine does not have pass the same rules first and are then refused by name. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from router.native.request_models import Generate, Parameters
from router.requests.request import Bounds, Request, _refuse, _within, pick_seed
from router.requests.rules import check_ours
from shard.wire.protocol import Sampling


def precheck(parameters: Parameters, bounds: Bounds, *, stream: bool) -> None:
    """The checks that come before the permit. Raises Invalid."""
    count = 1 if parameters.best_of is None else parameters.best_of
    most = bounds.max_best_of
    _refuse(most == 1 and count != 1, "`best_of` != 1 is not allowed for this endpoint")
    _refuse(not 0 < count <= most, f"`best_of` must be > 0 and <= {most}. Given: {count}")
    _refuse(stream and count != 1, "`best_of` != 1 is not supported when streaming tokens")
    _refuse(
        stream and parameters.decoder_input_details,
        "`decoder_input_details` == true is not supported when streaming tokens",
    )


def validate(
    body: Generate, bounds: Bounds, *, stream: bool, pick: Callable[[], int] = pick_seed
) -> Request:
    """The Request in `body`. Raises Invalid with the first rule broken, in TGI's order."""
    parameters = body.parameters
    _check_sampling(parameters)
    _check_counts(parameters, bounds)
    _check_input(body, bounds)
    check_ours(parameters, parameters.stop)
    _refuse_missing(parameters)
    return Request(
        inputs=body.inputs,
        sampling=_sampling(parameters, bounds, pick),
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


def _check_sampling(given: Parameters) -> None:
    warped = (given.temperature, given.top_k, given.top_p, given.typical_p)
    sampling = given.do_sample or any(value is not None for value in warped)
    many = given.best_of is not None and given.best_of > 1
    _refuse(many and not sampling, "you must use sampling when `best_of` is > 1")
    for name in ("temperature", "repetition_penalty"):
        positive = _within(getattr(given, name), 0.0, math.inf)
        _refuse(not positive, f"`{name}` must be strictly positive")
    penalty = given.frequency_penalty or 0.0
    _refuse(not -2.0 <= penalty <= 2.0, "`frequency_penalty` must be >= -2.0 and <= 2.0")
    _refuse(not _within(given.top_p, 0.0, 1.0), "`top_p` must be > 0.0 and < 1.0")
    _refuse(not _within(given.typical_p, 0.0, 1.0), "`typical_p` must be > 0.0 and < 1.0")
    _refuse(not _within(given.top_k, 0, math.inf), "`top_k` must be strictly positive")


def _check_counts(given: Parameters, bounds: Bounds) -> None:
    _refuse(given.max_new_tokens == 0, "`max_new_tokens` must be strictly positive")
    stops, most = len(given.stop), bounds.max_stop_sequences
    _refuse(stops > most, f"`stop` supports up to {most} stop sequences. Given: {stops}")
    many = given.best_of is not None and given.best_of > 1
    _refuse(many and given.seed is not None, "`seed` must not be set when `best_of` > 1")
    top, most = given.top_n_tokens or 0, bounds.max_top_n_tokens
    _refuse(top > most, f"`top_n_tokens` must be >= 0 and <= {most}. Given: {top}")


def _check_input(body: Generate, bounds: Bounds) -> None:
    _refuse(not body.inputs, "`inputs` cannot be empty")
    kept, most = body.parameters.truncate, bounds.max_input_tokens
    _refuse(
        kept is not None and not 0 < kept <= most,
        f"`truncate` must be strictly positive and less than {most}. Given: {kept}",
    )


def _refuse_missing(given: Parameters) -> None:
    _refuse(given.adapter_id is not None, "`adapter_id` is not supported")


def _sampling(given: Parameters, bounds: Bounds, pick: Callable[[], int]) -> Sampling:
    plain = Sampling(
        repetition_penalty=1.0 if given.repetition_penalty is None else given.repetition_penalty,
        frequency_penalty=given.frequency_penalty or 0.0,
        min_new_tokens=given.min_new_tokens or 0,
    )
    if given.watermark:
        gamma, delta = bounds.watermark_gamma, bounds.watermark_delta
        plain = replace(plain, watermark=True, watermark_gamma=gamma, watermark_delta=delta)
    cut = any(value is not None for value in (given.top_k, given.top_p, given.typical_p))
    if not (given.do_sample or cut or given.temperature not in (None, 1.0)):
        return plain
    return replace(
        plain,
        seed=pick() if given.seed is None else given.seed,
        temperature=given.temperature or 1.0,
        top_k=given.top_k or 0,
        top_p=1.0 if given.top_p is None else given.top_p,
        typical_p=1.0 if given.typical_p is None else given.typical_p,
    )
