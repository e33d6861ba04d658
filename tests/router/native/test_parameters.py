"""A parameter that is declared has a range, reaches the shards, and is in the document."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from router.config import Limits
from router.native import validation as native
from router.native.parameters import RANGES, SharedParameters
from router.native.request_models import GenerateParameters, GenerateRequest
from router.openai import validation as openai
from router.openai.request_models import CommonParameters
from router.requests.request import Request, resolve_limits
from shard.wire.protocol import Sampling

BOUNDS = resolve_limits(Limits(watermark_gamma=0.25, watermark_delta=3.0), 2000)
SHARED = {
    "temperature": 0.5,
    "top_k": 5,
    "top_p": 0.5,
    "repetition_penalty": 1.5,
    "frequency_penalty": 0.5,
    "min_new_tokens": 3,
    "ignore_eos": True,
    "speculate": 2,
    "expected_new_tokens": 5,
    "priority": 1,
    "user": "a",
    "cache_salt": "s",
    "draft_details": True,
}
NATIVE = {
    **SHARED,
    "best_of": 2,
    "typical_p": 0.5,
    "do_sample": False,
    "max_new_tokens": 5,
    "return_full_text": True,
    "stop": ["x"],
    "truncate": 5,
    "watermark": True,
    "details": True,
    "decoder_input_details": True,
    "seed": 3,
    "top_n_tokens": 2,
}
OPENAI = {
    **SHARED,
    "max_tokens": 5,
    "max_completion_tokens": 5,
    "min_p": 0.5,
    "presence_penalty": 0.5,
    "logit_bias": {"5": 1.0},
    "stop": "x",
    "seed": 3,
    "stream": True,
}
ELSEWHERE = {"grammar", "adapter_id", "model", "n", "stream_options"}
"""Fields that the routes evaluate, or that are refused."""


def native_request(**values: Any) -> Request:
    parameters = GenerateParameters.model_validate({"do_sample": True, **values})
    body = GenerateRequest(inputs="a", parameters=parameters)
    return native.validate(body, BOUNDS, stream=False, new_seed=lambda: 77)


def openai_request(**values: Any) -> Request:
    body = CommonParameters.model_validate(values)
    return openai.validate(body, BOUNDS, 100, openai.LogprobOptions(), new_seed=lambda: 77)


@pytest.mark.parametrize("name", sorted(GenerateParameters.model_fields.keys() - ELSEWHERE))
def test_every_native_parameter_changes_the_request(name: str) -> None:
    assert native_request(**{name: NATIVE[name]}) != native_request()


@pytest.mark.parametrize("name", sorted(CommonParameters.model_fields.keys() - ELSEWHERE))
def test_every_openai_parameter_changes_the_request(name: str) -> None:
    assert openai_request(**{name: OPENAI[name]}) != openai_request()


@pytest.mark.parametrize("name", SharedParameters.model_fields)
def test_a_shared_parameter_means_the_same_on_both_apis(name: str) -> None:
    value = {name: SHARED[name]}
    one, other = native_request(**value), openai_request(**value)
    assert one == replace(other, inputs="a", hide_stops_and_specials=False)


def test_every_field_of_sampling_can_be_set_by_a_request() -> None:
    requests = [native_request(**{name: value}) for name, value in NATIVE.items()]
    requests += [openai_request(**{name: value}) for name, value in OPENAI.items()]
    assert {name for request in requests for name in set_fields(request.sampling)} == {
        field.name for field in fields(Sampling)
    }


def set_fields(sampling: Sampling) -> set[str]:
    neutral = Sampling()
    names = [field.name for field in fields(Sampling)]
    return {name for name in names if getattr(sampling, name) != getattr(neutral, name)}


def test_every_sampling_parameter_has_a_range_unless_its_type_is_one() -> None:
    declared = GenerateParameters.model_fields.keys() | CommonParameters.model_fields.keys()
    bounded_by_type = {"seed", "watermark", "min_new_tokens"}
    sampling = {field.name for field in fields(Sampling)}
    assert (declared & sampling) - bounded_by_type == RANGES.keys()


@pytest.mark.parametrize("value", [1e-45, 1e-40, 1e-20, 9e-6])
def test_a_temperature_that_leaves_no_choice_is_greedy(value: float) -> None:
    plain = GenerateRequest(inputs="a", parameters=GenerateParameters(temperature=value, top_k=5))
    assert native.validate(plain, BOUNDS, stream=False).sampling == Sampling()
    body = CommonParameters(temperature=value, top_p=0.5, seed=3)
    request = openai.validate(body, BOUNDS, 100, openai.LogprobOptions())
    assert request.sampling == Sampling()


@pytest.mark.parametrize("value", [1.1e-5, 1e20, 3e38])
def test_any_other_temperature_samples(value: float) -> None:
    plain = GenerateRequest(inputs="a", parameters=GenerateParameters(temperature=value, seed=3))
    body = CommonParameters(temperature=value, seed=3)
    for request in (
        native.validate(plain, BOUNDS, stream=False),
        openai.validate(body, BOUNDS, 100, openai.LogprobOptions()),
    ):
        assert request.sampling.temperature == pytest.approx(value)
