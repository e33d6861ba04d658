"""JSON keeps the value of every number, and is nested at most so deep."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import exact_json
from router.exact_json import MAX_DEPTH, ExactNumber, TooDeep, dumps, dumps_readable, loads

INEXACT = (
    "18446744073709551616",
    "-9223372036854775809",
    "123456789012345678901234567890",
    "1e400",
    "-1E+400",
    "1e-400",
    "0.12345678901234567891",
    "1e999999999999999999999999",
    "9" * 5000,
)


@pytest.mark.parametrize("text", INEXACT)
def test_a_number_that_no_float_holds_is_written_as_it_was_read(text: str) -> None:
    value = loads(f'{{"a": [{text}, "{text}"]}}')
    assert value == {"a": [ExactNumber(text), text]}
    assert dumps(value) == f'{{"a":[{text},"{text}"]}}'.encode()
    assert dumps_readable(value, indent=None) == f'{{"a": [{text}, "{text}"]}}'
    assert loads(dumps(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("18446744073709551615", 2**64 - 1),
        ("-9223372036854775808", -(2**63)),
        ("1234567890123456789", 1234567890123456789),
        ("1e5", 1e5),
        ("0.1000000000000000", 0.1),
        ("1.7976931348623157e308", 1.7976931348623157e308),
        ("-0", 0),
    ],
)
def test_other_numbers_are_plain(text: str, value: float) -> None:
    assert loads(text) == value
    assert type(loads(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "[1e400",
        "[01e400]",
        "[1e400,NaN]",
        "[Infinity]",
        '[1e400,"\\ud800"]',
        "[1e400]x",
        "[1e]",
        "",
    ],
)
def test_what_orjson_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"line 1|empty"):
        loads(text)


NUMBERS = st.one_of(
    st.integers(-(10**40), 10**40).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.tuples(st.integers(-(10**9), 10**9), st.integers(-999, 999)).map("{0[0]}e{0[1]}".format),
)
VALUES = st.recursive(
    NUMBERS | st.sampled_from(("true", "null")) | st.text().map(json.dumps),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda parts: f"[{', '.join(parts)}]")
        | st.dictionaries(st.text().map(json.dumps), inner, max_size=4).map(
            lambda items: "{" + ", ".join(f"{key}: {value}" for key, value in items.items()) + "}"
        )
    ),
    max_leaves=12,
)


def exact(text: str | bytes) -> Any:
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)


@given(VALUES)
def test_no_number_of_any_value_changes(text: str) -> None:
    try:
        value = loads(text)
    except ValueError:  # a lone surrogate
        assert "\\ud" in text
        return
    assert exact(dumps(value)) == exact(text)
    assert exact(dumps_readable(value)) == exact(text)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_bounded(opening: str, closing: str) -> None:
    allowed = opening * MAX_DEPTH + "0" * (opening != "[") + closing * MAX_DEPTH
    assert dumps(loads(allowed)) == allowed.encode()
    with pytest.raises(TooDeep):
        loads(f"[{allowed}]")


def test_the_error_names_the_path_of_what_is_nested_too_deep() -> None:
    text = '{"x": [], "tools": [{}, {"f\\"n": {"p":' + "[" * MAX_DEPTH + "]" * MAX_DEPTH + "}}]}"
    with pytest.raises(TooDeep) as caught:
        loads(text)
    assert caught.value.path == 'tools.1.f\\"n.p.0.0'
    assert str(caught.value) == "nested more than 100 levels deep"


def test_brackets_in_strings_and_next_to_each_other_are_not_nested() -> None:
    text = json.dumps([["[{" * 300, '"\\[' * 300], *([[]] * 300)])
    assert json.loads(dumps(loads(text))) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "value", "rest"),
    [
        ('{"a": [1]} "b"', {"a": [1]}, ' "b"'),
        ("true|x", True, "|x"),
        ('"}"}', "}", "}"),
        ("1e400)", ExactNumber("1e400"), ")"),
        ("12345678901234567890123 ", ExactNumber("12345678901234567890123"), " "),
    ],
)
def test_a_value_may_be_followed_by_other_text(text: str, value: object, rest: str) -> None:
    found, end = exact_json.load_prefix(f"> {text}", 2)
    assert found == value
    assert f"> {text}"[end:] == rest


@pytest.mark.parametrize("text", ["", "x", '{"a": }', "NaN", "[1, 2", '"a'])
def test_a_prefix_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"Expecting|Unterminated|is not JSON"):
        exact_json.load_prefix(text, 0)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 100_000])
def test_a_prefix_that_is_nested_too_deep_is_refused(depth: int) -> None:
    with pytest.raises(exact_json.TooDeep):
        exact_json.load_prefix("[" * depth + "]" * depth, 0)


@pytest.mark.parametrize(
    ("value", "is_exact"),
    [
        (2**53, True),
        (2**53 + 1, False),
        (1234567890123456789, False),
        (2**60, True),
        (0.1, True),
        (1e22, True),
        (1e23, False),
        (ExactNumber("1e400"), False),
        (ExactNumber("1" + "0" * 22), True),
        (ExactNumber("-1" + "0" * 22), True),
        (ExactNumber("1" + "0" * 23), False),
        (ExactNumber(str(2**1023)), True),
        (ExactNumber(str(2**1024)), False),
        (ExactNumber("9" * 400), False),
        (ExactNumber("0.10000000000000000000001"), False),
        (-0.0, True),
    ],
)
def test_a_number_is_exact_if_a_float_has_its_value(value: object, is_exact: bool) -> None:
    assert exact_json.is_float_exact(value) == is_exact


def test_an_exact_number_can_be_taken_as_a_float() -> None:
    assert float(ExactNumber("1e400")) == math.inf
    assert float(ExactNumber("18446744073709551616")) == 2.0**64
