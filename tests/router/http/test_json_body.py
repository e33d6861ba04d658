import json
from typing import Any

import pytest

from router.cloud import VertexRequest
from router.errors import BodyTypeError, MalformedJson
from router.http.json_body import Body, parse_body, validate_body
from router.native.request_models import CompatGenerateRequest, GenerateRequest
from router.openai.request_models import ChatRequest, CompletionRequest
from router.openai.responses_request import ResponsesRequest

PREFIX = "Failed to deserialize the JSON body into the target type: "


def parameters(**given: Any) -> Any:
    return parse_body(
        json.dumps({"inputs": "a", "parameters": given}).encode(), GenerateRequest
    ).parameters


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"inputs":"a",}',
        b"\xff",
        b'{"inputs":NaN}',
        b'{"inputs":"\\ud800"}',
        b'{"inputs":1e400,}',
        b'{"inputs":[01e400]}',
    ],
)
def test_what_is_not_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedJson, match=r"^Failed to parse the request body as JSON: "):
        parse_body(body, GenerateRequest)


@pytest.mark.parametrize("body", [b"[]", b"3", b'"a"', b"null"])
def test_a_body_is_an_object(body: bytes) -> None:
    with pytest.raises(BodyTypeError) as caught:
        parse_body(body, GenerateRequest)
    assert str(caught.value) == PREFIX + "body: Input should be an object"


@pytest.mark.parametrize("body", [b"{}", b'{"inputs":null}', b'{"parameters":{}}'])
def test_inputs_are_required(body: bytes) -> None:
    with pytest.raises(BodyTypeError) as caught:
        parse_body(body, GenerateRequest)
    assert str(caught.value) == PREFIX + "inputs: Field required"


INTEGERS = (
    *("best_of", "max_new_tokens", "truncate", "seed", "top_n_tokens", "min_new_tokens"),
    "expected_new_tokens",
)
FLOATS = ("temperature", "repetition_penalty", "frequency_penalty", "top_p", "typical_p")
FLAGS = (
    *("do_sample", "return_full_text", "watermark", "details", "decoder_input_details"),
    *("ignore_eos_token", "ignore_eos"),
)


@pytest.mark.parametrize("name", [*INTEGERS, "top_k", "speculate", "min_tokens", "priority"])
@pytest.mark.parametrize("value", [True, "5", 1.5, 1.0, [1], {}, 2**64, 10**300])
def test_an_integer_is_nothing_else(name: str, value: Any) -> None:
    with pytest.raises(BodyTypeError) as caught:
        parameters(**{name: value})
    assert str(caught.value).startswith(f"{PREFIX}parameters.{name}: ")


@pytest.mark.parametrize("name", INTEGERS)
def test_a_count_is_not_negative(name: str) -> None:
    with pytest.raises(BodyTypeError, match=name):
        parameters(**{name: -1})


@pytest.mark.parametrize(
    ("name", "most"),
    [
        *[("best_of", 2**64 - 1), ("truncate", 2**64 - 1), ("seed", 2**64 - 1)],
        *[("max_new_tokens", 2**32 - 1), ("top_n_tokens", 2**32 - 1), ("top_k", 2**31 - 1)],
    ],
)
def test_an_integer_reaches_its_types_bound_and_no_further(name: str, most: int) -> None:
    assert getattr(parameters(**{name: most}), name) == most
    with pytest.raises(BodyTypeError, match=name):
        parameters(**{name: most + 1})


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("value", [True, "0.5", [0.5], 1e39, -1e39])
def test_a_float_is_a_finite_float32(name: str, value: Any) -> None:
    with pytest.raises(BodyTypeError) as caught:
        parameters(**{name: value})
    assert str(caught.value).startswith(f"{PREFIX}parameters.{name}: ")


def test_an_integer_is_good_enough_for_a_float() -> None:
    assert parameters(temperature=2).temperature == 2.0


def test_floats_are_rounded_to_float32() -> None:
    assert parameters(temperature=1e-300).temperature == 0.0
    assert parameters(top_p=0.9).top_p == 0.8999999761581421


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", [1, "true", []])
def test_a_flag_is_true_or_false(name: str, value: Any) -> None:
    with pytest.raises(BodyTypeError, match=f"parameters.{name}: Input should be a valid boolean"):
        parameters(**{name: value})


@pytest.mark.parametrize("value", ["a", [1], [None], {}])
def test_stop_is_a_list_of_strings(value: Any) -> None:
    with pytest.raises(BodyTypeError, match=r"parameters\.stop"):
        parameters(stop=value)


@pytest.mark.parametrize(
    "value", ["json", {}, {"type": "json"}, {"type": "ebnf", "value": "x"}, {"value": "x"}]
)
def test_a_grammar_has_a_known_type_and_a_value(value: Any) -> None:
    with pytest.raises(BodyTypeError, match=r"parameters\.grammar"):
        parameters(grammar=value)


def test_null_is_as_good_as_absent_for_every_parameter() -> None:
    names = [*INTEGERS, *FLOATS, *FLAGS, "stop", "grammar", "adapter_id", "top_k", "speculate"]
    names += ["priority", "user", "cache_salt"]
    assert parameters(**dict.fromkeys(names)) == parameters()


def test_no_parameters_at_all_mean_sampling_and_empty_ones_do_not() -> None:
    assert parse_body(b'{"inputs":"a"}', GenerateRequest).parameters.do_sample
    assert parse_body(b'{"inputs":"a","parameters":null}', GenerateRequest).parameters.do_sample
    assert not parse_body(b'{"inputs":"a","parameters":{}}', GenerateRequest).parameters.do_sample


def test_unknown_fields_are_ignored_at_every_depth() -> None:
    body = (
        b'{"inputs":"a","x":[{}],"parameters":{"y":1,"grammar":{"type":"json","value":{},"z":0}}}'
    )
    assert parse_body(body, GenerateRequest).inputs == "a"


def test_the_last_of_two_equal_keys_wins() -> None:
    assert parse_body(b'{"inputs":"a","inputs":"b"}', GenerateRequest).inputs == "b"


def test_aliases_name_the_same_parameter() -> None:
    assert parameters(ignore_eos=True) == parameters(ignore_eos_token=True)
    assert parameters(min_tokens=3) == parameters(min_new_tokens=3)


def test_only_the_root_reads_the_stream_flag() -> None:
    assert parse_body(b'{"inputs":"a","stream":true}', CompatGenerateRequest).stream
    assert not parse_body(b'{"inputs":"a","stream":null}', CompatGenerateRequest).stream
    assert parse_body(b'{"inputs":"a","stream":"yes"}', GenerateRequest).inputs == "a"
    with pytest.raises(BodyTypeError, match="stream"):
        parse_body(b'{"inputs":"a","stream":"yes"}', CompatGenerateRequest)


def crowd(values: int) -> bytes:
    """A body of about so many values, none of which is read."""
    return b'{"inputs":"[,\\",[{\\\\","more":[' + b"[]," * (values // 2 - 2) + b"0]}"


def test_a_body_of_too_many_values_is_refused_before_it_is_parsed() -> None:
    assert parse_body(crowd(998), GenerateRequest, 1000).inputs == '[,",[{\\'
    with pytest.raises(BodyTypeError) as caught:
        parse_body(crowd(1004), GenerateRequest, 1000)
    assert str(caught.value) == PREFIX + "body: it holds more than 1000 values"


@pytest.mark.parametrize("unit", [b'"",', b'"a":"",', b"{},", b"[[]],", b"1,"])
def test_values_of_every_kind_count(unit: bytes) -> None:
    with pytest.raises(BodyTypeError, match="more than 1000 values"):
        parse_body(b'{"inputs":"a","more":[' + unit * 3000 + b"0]}", GenerateRequest, 1000)


@pytest.mark.parametrize("text", ['",' * 3000, "[{" * 3000, "\\\\," * 3000])
def test_a_text_is_one_value_whatever_it_holds(text: str) -> None:
    assert parse_body(json.dumps({"inputs": text}).encode(), GenerateRequest, 10).inputs == text


def test_the_first_wrong_value_of_many_is_named() -> None:
    with pytest.raises(BodyTypeError, match=r"parameters\.stop\.1: Input should be a valid string"):
        parameters(stop=["a", *range(1000)])


MESSAGES = [{"role": "user", "content": "a"}]


@pytest.mark.parametrize(
    ("model", "body", "text"),
    [
        (ChatRequest, {"stop": 5}, "stop: Input should be a valid string or a valid list"),
        (ChatRequest, {"stop": ["a", 5]}, "stop.1: Input should be a valid string"),
        (ChatRequest, {"stop": {}}, "stop: Input should be a valid string or a valid list"),
        (ChatRequest, {"tool_choice": 5}, "tool_choice: Input should be a valid string or an obje"),
        (ChatRequest, {"tool_choice": {"name": 5}}, "tool_choice.name: Input should be a valid s"),
        (ChatRequest, {"tool_choice": {"type": "x"}}, "tool_choice.type: Input should be 'functio"),
        (ChatRequest, {"tool_choice": {}}, "tool_choice.function: Field required"),
        (ChatRequest, {"logit_bias": {"5": "a"}}, "logit_bias.5: Input should be a valid number"),
        (ChatRequest, {"logit_bias": 5}, "logit_bias: Input should be a valid dictionary or a "),
        (ChatRequest, {"temperature": 1e50}, "temperature: number out of range of float32"),
        (ChatRequest, {"min_new_tokens": -1}, "min_new_tokens: Input should be greater than or "),
        (ChatRequest, {"min_tokens": -1}, "min_tokens: Input should be greater than or equal to"),
        (
            ChatRequest,
            {"messages": [*MESSAGES, {"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "messages.1.content.0.text: Input should be a valid string",
        ),
        (
            ChatRequest,
            {"messages": [{"role": "user", "content": [{"text": "a"}]}]},
            "messages.0.content.0.type: Field required",
        ),
        (
            ChatRequest,
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]},
            "messages.0.tool_calls.0.function.name: Field required",
        ),
        (CompletionRequest, {"prompt": 5}, "prompt: Input should be a valid list"),
        (CompletionRequest, {"prompt": [[1, "a"]]}, "prompt.0.1: Input should be a valid integer"),
        (CompletionRequest, {"prompt": ["a", 1]}, "prompt.1: Input should be a valid string"),
        (ResponsesRequest, {"input": 5}, "input: Input should be a valid string or a valid list"),
        (ResponsesRequest, {"input": [5]}, "input.0: Input should be an object"),
        (
            ResponsesRequest,
            {"input": [{"type": 5}]},
            "input.0.type: Input should be a valid string",
        ),
        (VertexRequest, {"instances": [5]}, "instances.0: Input should be an object"),
        (VertexRequest, {"instances": [{"inputs": 5}]}, "instances.0.inputs: Input should be a v"),
        (
            VertexRequest,
            {"instances": [{"messages": MESSAGES, "top_k": 1.5}]},
            "instances.0.top_k: Input should be a valid integer",
        ),
    ],
    ids=str,
)
def test_an_error_has_the_path_that_the_client_wrote(
    model: type[Body], body: dict[str, Any], text: str
) -> None:
    required = {"messages": MESSAGES} if model is ChatRequest else {}
    with pytest.raises(BodyTypeError) as caught:
        validate_body({**required, **body}, model)
    assert str(caught.value).startswith(PREFIX + text)
