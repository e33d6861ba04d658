import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from router.config import Limits
from router.errors import BodyTypeError, MalformedJson, ValidationError
from router.http.json_body import parse_body
from router.native.request_models import GenerateParameters, GenerateRequest
from router.native.validation import precheck, validate
from router.requests.request import (
    SEED_LIMIT,
    Request,
    ResolvedLimits,
    expand_best_of,
    fit_to_context,
    resolve_limits,
)
from shard.wire.protocol import HEADER_BYTES, NewRow, ReportOptions, Sampling, Step, pack, unpack

BOUNDS = resolve_limits(Limits(max_input_tokens=30), 2000)


def request(inputs: str = "a", bounds: ResolvedLimits = BOUNDS, **parameters: Any) -> Request:
    body = GenerateRequest(inputs=inputs, parameters=GenerateParameters.model_validate(parameters))
    return validate(body, bounds, stream=False, new_seed=lambda: 77)


def refusal(inputs: str = "a", **parameters: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        request(inputs, **parameters)
    return str(caught.value).removeprefix("Input validation error: ")


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    ({"temperature": 0.0}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 0.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
    (
        {"best_of": 2, "do_sample": True, "seed": 1},
        "`seed` must not be set when `best_of` > 1",
    ),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"inputs": ""}, "`inputs` cannot be empty"),
    ({"truncate": 31}, "`truncate` must be strictly positive and less than 30. Given: 31"),
    ({"speculate": 65}, "`speculate` must be >= 0 and <= 64. Given: 65"),
    ({"stop": [""]}, "`stop` sequences must be 1 to 1000 characters long"),
    ({"expected_new_tokens": 0}, "`expected_new_tokens` must be strictly positive"),
    ({"user": "a" * 257}, "`user` must be at most 256 characters long"),
    ({"cache_salt": ""}, "`cache_salt` must be 1 to 256 characters long"),
]


@pytest.mark.parametrize(("parameters", "text"), BROKEN)
def test_each_broken_rule_has_tgis_text(parameters: dict[str, Any], text: str) -> None:
    assert refusal(**parameters) == text


@pytest.mark.parametrize("place", range(1, len(BROKEN) - 1))
def test_the_first_broken_rule_in_tgis_order_is_reported(place: int) -> None:
    (first, text), (second, _) = BROKEN[place], BROKEN[place + 1]
    assert refusal(**{**second, **first}) == text


def test_best_of_without_sampling_is_reported_before_all_else() -> None:
    assert refusal("", best_of=2, repetition_penalty=0.0) == BROKEN[0][1]


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"temperature": -1.0}, "`temperature` must be strictly positive"),
        ({"frequency_penalty": -2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"top_p": 0.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"top_k": -1}, "`top_k` must be strictly positive"),
        ({"truncate": 0}, "`truncate` must be strictly positive and less than 30. Given: 0"),
        ({"speculate": -1}, "`speculate` must be >= 0 and <= 64. Given: -1"),
        ({"stop": ["a" * 1001]}, "`stop` sequences must be 1 to 1000 characters long"),
        ({"cache_salt": "a" * 257}, "`cache_salt` must be 1 to 256 characters long"),
    ],
)
def test_rules_hold_on_their_other_side(parameters: dict[str, Any], text: str) -> None:
    assert refusal(**parameters) == text


def test_a_temperature_below_float32_is_not_positive() -> None:
    assert refusal(temperature=1e-300) == "`temperature` must be strictly positive"


def test_an_adapter_that_is_not_loaded_is_refused_by_name() -> None:
    assert refusal(adapter_id="x") == "`adapter_id` `x` is not loaded"


def test_neutral_values_equal_absent_ones() -> None:
    made = request(best_of=1, frequency_penalty=0, watermark=False, top_n_tokens=0, min_tokens=0)
    assert made == request()


def test_processors_do_not_imply_sampling() -> None:
    made = request(frequency_penalty=-0.5, watermark=True, min_new_tokens=3)
    assert made.sampling == Sampling(frequency_penalty=-0.5, watermark=True, min_new_tokens=3)
    assert made.seed is None


def test_the_operators_watermark_settings_apply_only_with_a_watermark() -> None:
    bounds = resolve_limits(Limits(watermark_gamma=0.25, watermark_delta=3.0), 2000)
    assert request(bounds=bounds).sampling == Sampling()
    marked = Sampling(watermark=True, watermark_gamma=0.25, watermark_delta=3.0)
    assert request(bounds=bounds, watermark=True).sampling == marked


def test_report_options_reach_the_shards() -> None:
    made = request(top_n_tokens=5, decoder_input_details=True)
    assert made.report == ReportOptions(top_n=5, prompt_logprobs=True)
    assert made.details
    assert request().report == ReportOptions()


def test_sequences_differ_in_seeds_that_follow_from_the_first() -> None:
    made = request(best_of=2, do_sample=True)
    first, *others = expand_best_of(made, 200)
    seeds = {each.sampling.seed for each in (first, *others)}
    assert first == made
    assert len(seeds) == 200
    assert all(seed < SEED_LIMIT for seed in seeds)
    assert {replace(each, sampling=made.sampling) for each in others} == {made}
    assert expand_best_of(made, 200) == (first, *others)
    assert expand_best_of(replace(made, sampling=Sampling(78, 1.0)), 2)[1] not in others


def test_greedy_is_the_default_and_has_no_seed() -> None:
    made = request(seed=5, repetition_penalty=1.5, temperature=1.0)
    assert made.sampling == Sampling(repetition_penalty=1.5)
    assert made.seed is None


@pytest.mark.parametrize(
    ("parameters", "sampling"),
    [
        ({"do_sample": True}, Sampling(77, 1.0)),
        ({"do_sample": True, "seed": 0}, Sampling(0, 1.0)),
        ({"temperature": 0.5}, Sampling(77, 0.5)),
        ({"top_k": 3}, Sampling(77, 1.0, top_k=3)),
        ({"typical_p": 0.5}, Sampling(77, 1.0, typical_p=0.5)),
        ({"top_p": 0.5, "seed": 2**64 - 1}, Sampling(2**64 - 1, 1.0, top_p=0.5)),
    ],
)
def test_any_warper_implies_sampling(parameters: dict[str, Any], sampling: Sampling) -> None:
    made = request(**parameters)
    assert made.sampling == sampling
    assert made.seed == sampling.seed


def test_the_rest_is_passed_on() -> None:
    made = request(
        "text",
        max_new_tokens=5,
        stop=["x", "y"],
        truncate=30,
        ignore_eos=True,
        speculate=0,
        details=True,
        return_full_text=False,
    )
    assert made == Request(
        "text", Sampling(), 5, ("x", "y"), 30, True, 0, details=True, return_full_text=False
    )


def test_scheduling_hints_are_passed_on_and_users_become_numbers() -> None:
    hints: dict[str, Any] = {"expected_new_tokens": 7, "priority": -3}
    hints |= {"user": "a", "cache_salt": "s"}
    assert request(**hints) == replace(request(), **hints)
    tenants = [request(user=user).tenant for user in ("a", "a", "b")]
    assert tenants[0] == tenants[1] != tenants[2]
    assert request().tenant == request(user="").tenant == 0
    assert 0 not in tenants


anything = some.recursive(
    some.none()
    | some.booleans()
    | some.integers(-5, 2**70)
    | some.floats()
    | some.text(max_size=9),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    inputs=some.text() | anything,
    parameters=some.dictionaries(
        some.sampled_from(sorted(GenerateParameters.model_fields)), anything
    ),
)
def test_any_body_is_an_error_of_its_caller_or_fits_the_shards_wire(
    inputs: Any, parameters: Any
) -> None:
    text = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    try:
        made = validate(parse_body(text, GenerateRequest), BOUNDS, stream=False)
    except (ValidationError, BodyTypeError, MalformedJson):
        return
    step = Step(1, (), (NewRow(1, (1,), 1, 1, False, made.sampling, made.report),), (), ())
    assert unpack(pack(step)[HEADER_BYTES:]) == step


def prechecked(most: int, stream: bool, **parameters: Any) -> str:
    bounds = resolve_limits(Limits(max_best_of=most), 100)
    with pytest.raises(ValidationError) as caught:
        precheck(GenerateParameters.model_validate(parameters), bounds, stream=stream)
    return str(caught.value).removeprefix("Input validation error: ")


def test_best_of_is_counted_before_the_permit() -> None:
    assert prechecked(1, False, best_of=2) == "`best_of` != 1 is not allowed for this endpoint"
    assert prechecked(2, False, best_of=3) == "`best_of` must be > 0 and <= 2. Given: 3"
    assert prechecked(2, False, best_of=0) == "`best_of` must be > 0 and <= 2. Given: 0"


def test_some_parameters_cannot_be_streamed() -> None:
    text = "`best_of` != 1 is not supported when streaming tokens"
    assert prechecked(2, True, best_of=2) == text
    text = "`decoder_input_details` == true is not supported when streaming tokens"
    assert prechecked(2, True, decoder_input_details=True) == text
    whole = GenerateParameters.model_validate({"best_of": 2, "decoder_input_details": True})
    precheck(whole, BOUNDS, stream=False)


def unfit(tokens: int, bounds: ResolvedLimits = BOUNDS, **parameters: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        fit_to_context(request(**parameters), range(tokens), bounds)
    return str(caught.value).removeprefix("Input validation error: ")


def test_without_max_new_tokens_all_that_fits_is_the_budget() -> None:
    assert fit_to_context(request(), range(30), BOUNDS) == (tuple(range(30)), 1970)


def test_truncate_keeps_the_last_tokens() -> None:
    assert fit_to_context(request(truncate=2, max_new_tokens=5), range(90), BOUNDS) == ((88, 89), 5)
    assert fit_to_context(request(truncate=9, max_new_tokens=5), range(3), BOUNDS) == ((0, 1, 2), 5)


def test_the_length_check_counts_at_most_1024_new_tokens() -> None:
    assert fit_to_context(request(max_new_tokens=10_000), range(20), BOUNDS) == (
        tuple(range(20)),
        1980,
    )
    tight = resolve_limits(Limits(), 1100)
    assert unfit(77, tight, max_new_tokens=10_000) == (
        "`inputs` tokens + `max_new_tokens` must be <= 1100. "
        "Given: 77 `inputs` tokens and 1024 `max_new_tokens`"
    )
    assert fit_to_context(request(max_new_tokens=10_000), range(76), tight)[1] == 1024


def test_a_prompt_of_the_longest_length_passes_and_one_more_does_not() -> None:
    assert len(fit_to_context(request(), range(30), BOUNDS)[0]) == 30
    assert unfit(31) == "`inputs` must have less than 30 tokens. Given: 31"


def test_a_prompt_beyond_everything_names_the_sum_first() -> None:
    assert unfit(2001) == (
        "`inputs` tokens + `max_new_tokens` must be <= 2000. "
        "Given: 2001 `inputs` tokens and 0 `max_new_tokens`"
    )


def test_a_prompt_without_tokens_is_empty() -> None:
    assert unfit(0) == "`inputs` cannot be empty"


@given(
    tokens=some.integers(1, 200),
    new=some.none() | some.integers(1, 2**32 - 1),
    truncate=some.none() | some.integers(1, 99),
    longest=some.integers(2, 1500),
)
def test_what_fits_always_fits(
    tokens: int, new: int | None, truncate: int | None, longest: int
) -> None:
    bounds = resolve_limits(Limits(), longest)
    asked = Request("a", Sampling(), max_new_tokens=new, truncate=truncate)
    try:
        kept, budget = fit_to_context(asked, range(tokens), bounds)
    except ValidationError:
        return
    assert 1 <= len(kept) <= bounds.max_input_tokens
    assert budget >= 1
    assert len(kept) + budget <= longest


def test_open_lengths_are_settled_by_what_the_shards_hold() -> None:
    bounds = resolve_limits(Limits(), 100)
    assert (bounds.max_input_tokens, bounds.max_total_tokens) == (99, 100)
    bounds = resolve_limits(Limits(max_total_tokens=50), 100)
    assert (bounds.max_input_tokens, bounds.max_total_tokens) == (49, 50)


def test_lengths_that_clash_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`max_total_tokens`\(200\) must be <= 100"):
        resolve_limits(Limits(max_total_tokens=200), 100)
    with pytest.raises(ValueError, match=r"`max_input_tokens`\(7\) must be < `max_total_tokens`"):
        resolve_limits(Limits(max_input_tokens=7, max_total_tokens=7), 100)
