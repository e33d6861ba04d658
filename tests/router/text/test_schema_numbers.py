"""Numbers that a compiled grammar would change are refused, and no others."""

from __future__ import annotations

import pytest

from router import exact_json
from router.text.schema_numbers import ChangedNumber, check_numbers

PLACES = [
    '{"const": %s}',
    '{"enum": ["a", [%s]]}',
    '{"$defs": {"const": {"enum": [{"b": %s}]}}}',
    '{"items": {"const": %s}}',
    '{"anyOf": [true, {"properties": {"enum": {"const": %s}}}]}',
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "number",
    [
        "10000000000000000000000",
        "-10000000000000000000000",
        "1152921504606846976",
        "9223372036854774784",
        "100000000000000000000.0",
        "1e22",
        "-5",
        "0.1",
    ],
)
def test_numbers_that_keep_their_digits_are_accepted(place: str, number: str) -> None:
    check_numbers(exact_json.loads(place % number))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        ("1234567890123456789", "64-bit floats cannot hold"),
        ("9007199254740993", "64-bit floats cannot hold"),
        ("1" + "0" * 23, "64-bit floats cannot hold"),
        ("1e400", "64-bit floats cannot hold"),
        ("9223372036854775808", "would be written with other digits"),
        ("-9223372036854775808", "would be written with other digits"),
        ("18446744073709551616", "would be written with other digits"),
        ("1180591620717411303424", "would be written with other digits"),
        ("123456789012345683968", "would be written with other digits"),
    ],
)
def test_numbers_that_would_change_are_refused_with_the_reason(
    place: str, number: str, reason: str
) -> None:
    with pytest.raises(ChangedNumber, match=f"` has a number that {reason}: {number}"):
        check_numbers(exact_json.loads(place % number))


@pytest.mark.parametrize("keyword", ["minimum", "exclusiveMaximum", "multipleOf"])
def test_a_bound_needs_no_digits(keyword: str) -> None:
    check_numbers({keyword: 2**63})
    with pytest.raises(ChangedNumber, match=f"`{keyword}`"):
        check_numbers({keyword: 2**63 - 1})
