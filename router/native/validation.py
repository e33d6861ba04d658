"""A native body becomes a Request: TGI's rules in TGI's order, with TGI's words.

`precheck` holds the rules that come before the permit, `validate` the rest. Parameters that the
engine does not have pass the same rules first and are then refused by name. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

from router.errors import ValidationError
from router.native.parameters import (
    RANGES,
    build_sampling,
    check_extensions,
    check_ranges,
    request_fields,
    set_warpers,
)
from router.native.request_models import GenerateParameters, GenerateRequest
from router.requests.adapters import NO_ADAPTERS, AdapterRegistry
from router.requests.request import Request, ResolvedLimits, random_seed
from router.requests.rules import require
from shard.wire.protocol import Sampling


def precheck(parameters: GenerateParameters, bounds: ResolvedLimits, *, stream: bool) -> None:
    """The rules that come before the permit. Raises ValidationError."""
    count = 1 if parameters.best_of is None else parameters.best_of
    limit = bounds.max_best_of
    require(limit != 1 or count == 1, "`best_of` != 1 is not allowed for this endpoint")
    require(0 < count <= limit, f"`best_of` must be > 0 and <= {limit}. Given: {count}")
    require(not stream or count == 1, "`best_of` != 1 is not supported when streaming tokens")
    require(
        not (stream and parameters.decoder_input_details),
        "`decoder_input_details` == true is not supported when streaming tokens",
    )


def validate(
    body: GenerateRequest,
    bounds: ResolvedLimits,
    adapters: AdapterRegistry = NO_ADAPTERS,
    *,
    stream: bool,
    new_seed: Callable[[], int] = random_seed,
) -> Request:
    """The Request in `body`. Raises ValidationError with the first broken rule, in TGI's order."""
    parameters = body.parameters
    _check_sampling(parameters)
    _check_counts(parameters, bounds)
    _check_input(body, bounds)
    check_extensions(parameters, parameters.stop)
    return Request(
        inputs=body.inputs,
        sampling=_sampling(parameters, bounds, new_seed),
        max_new_tokens=parameters.max_new_tokens,
        stop=tuple(parameters.stop),
        truncate=parameters.truncate,
        details=parameters.details or parameters.decoder_input_details,
        return_full_text=parameters.return_full_text,
        stream=stream,
        top_n_tokens=parameters.top_n_tokens or 0,
        decoder_input_details=parameters.decoder_input_details,
        best_of=parameters.best_of or 1,
        adapter=_adapter(parameters.adapter_id, adapters),
        **request_fields(parameters),
    )


def _adapter(name: str | None, adapters: AdapterRegistry) -> int:
    """The number of the adapter `name`. Raises ValidationError if it is not loaded."""
    if name is None:
        return 0
    adapter = adapters.find(name)
    if adapter is None:
        raise ValidationError(f"`adapter_id` `{name}` is not loaded")
    return adapter.number


def _check_sampling(parameters: GenerateParameters) -> None:
    samples = parameters.do_sample or bool(set_warpers(parameters))
    require(samples or not _has_several(parameters), "you must use sampling when `best_of` is > 1")
    check_ranges(parameters, RANGES)


def _check_counts(parameters: GenerateParameters, bounds: ResolvedLimits) -> None:
    require(parameters.max_new_tokens != 0, "`max_new_tokens` must be strictly positive")
    stops, limit = len(parameters.stop), bounds.max_stop_sequences
    require(stops <= limit, f"`stop` supports up to {limit} stop sequences. Given: {stops}")
    require(
        not _has_several(parameters) or parameters.seed is None,
        "`seed` must not be set when `best_of` > 1",
    )
    top, limit = parameters.top_n_tokens or 0, bounds.max_top_n_tokens
    require(top <= limit, f"`top_n_tokens` must be >= 0 and <= {limit}. Given: {top}")


def _check_input(body: GenerateRequest, bounds: ResolvedLimits) -> None:
    require(bool(body.inputs), "`inputs` cannot be empty")
    kept, limit = body.parameters.truncate, bounds.max_input_tokens
    require(
        kept is None or 0 < kept <= limit,
        f"`truncate` must be strictly positive and less than {limit}. Given: {kept}",
    )


def _has_several(parameters: GenerateParameters) -> bool:
    return parameters.best_of is not None and parameters.best_of > 1


def _sampling(
    parameters: GenerateParameters, bounds: ResolvedLimits, new_seed: Callable[[], int]
) -> Sampling:
    """As in TGI any warper implies sampling, but a temperature of 1 does not."""
    warpers = set_warpers(parameters)
    if parameters.temperature == 1.0:
        warpers -= {"temperature"}
    gamma, delta = bounds.watermark_gamma, bounds.watermark_delta
    watermark = {"watermark_gamma": gamma, "watermark_delta": delta}
    return build_sampling(
        parameters,
        greedy=not (parameters.do_sample or warpers),
        new_seed=new_seed,
        **(watermark if parameters.watermark else {}),
    )
