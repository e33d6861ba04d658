"""The targets of coverage-guided fuzzing accept any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard.wire.protocol import Ping, pack
from tests.fuzz.targets import TARGETS

INPUTS = (
    b"",
    pack(Ping(7)),
    pack(Ping(7))[:-1],
    b'{"inputs": "a", "parameters": {"seed": 1e400}}',
    b'\x00{"properties": {"a": {"type": "integer"}}}',
    b"\x00(a+)+b",
    b'\x01start: a\na: a a | "x"',
    b"\xff" * 40,
)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("data", INPUTS)
def test_a_target_raises_nothing_for_inputs_near_valid_ones(name: str, data: bytes) -> None:
    TARGETS[name](data)


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=60))
def test_no_target_raises_for_any_bytes(data: bytes) -> None:
    for target in TARGETS.values():
        target(data)
