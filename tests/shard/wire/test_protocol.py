"""The wire: golden bytes, the round trip, and only ProtocolError for anything else."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shard.wire import protocol
from shard.wire.protocol import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    Ack,
    AdapterLoaded,
    AppendPages,
    End,
    Fatal,
    Hello,
    LoadAdapter,
    LogitBias,
    MeasuredStep,
    Message,
    NewRow,
    PageCopy,
    Ping,
    Pong,
    Prepare,
    Prepared,
    ProtocolError,
    Ready,
    ReportOptions,
    RowResult,
    RowWork,
    Sampling,
    Step,
    StepResult,
    TopTokens,
    UnloadAdapter,
    body_length,
    pack,
    unpack,
)

GOLDEN: list[tuple[Message, str]] = [
    (Hello(3, 0, 2), "05000000 94 00 03 00 02"),
    (
        Ready(
            *(1, "m", "cpu", "float32", 16, 64, 8, 128, 300, 5, 0.5, 2.0),
            drafter="ngram",
            costs=(MeasuredStep(4, 5, 0.25),),
            catch_up_seconds=0.125,
            host_pages=32,
            swap_token_seconds=0.5,
            prefill_token_seconds=2.0,
            suffix=16,
            suffix_costs=(MeasuredStep(1, 16, 0.5),),
        ),
        "6b000000 dc0015 01 01 a16d a3637075 a7666c6f61743332 10 40 08 cc80 cd012c 05"
        " cb3fe0000000000000 cb4000000000000000"
        " a56e6772616d 91 93 04 05 cb3fd0000000000000 cb3fc0000000000000"
        " 20 cb3fe0000000000000 cb4000000000000000"
        " 10 91 93 01 10 cb3fe0000000000000",
    ),
    (
        Step(
            7,
            (3,),
            (
                NewRow(
                    4,
                    (1, 2, 3),
                    2,
                    9,
                    False,
                    Sampling(
                        5, 0.5, 6, 0.25, 1.5, 0.5, 0.25, 1.0, -1.0, (LogitBias(7, 2.0),), True, 8
                    ),
                    ReportOptions(2, True, False),
                    "a+",
                    2,
                    1,
                    "s",
                    3,
                ),
            ),
            (AppendPages(4, (10, 11)),),
            (RowWork(4, 3, 0), RowWork(2, 0, 5, 16, 9)),
            PageCopy((5,), (0,)),
            PageCopy((6,), (7,)),
            PageCopy((1,), (8,)),
        ),
        "cc000000 99 02 07 c404 03000000"
        " 91 9c 04 c40c 010000000200000003000000 02 09 c2"
        " 9e 05 cb3fe0000000000000 06 cb3fd0000000000000 cb3ff8000000000000"
        " cb3fe0000000000000 cb3fd0000000000000 cb3ff0000000000000 cbbff0000000000000"
        " 91 92 07 cb4000000000000000 c3 08"
        " cb3fe0000000000000 cb4000000000000000 93 02 c3 c2 a2612b 02 01 a173 03"
        " 91 92 04 c408 0a0000000b000000 92 95 04 03 00 00 00 95 02 00 05 10 09"
        " 92 c404 05000000 c404 00000000 92 c404 06000000 c404 07000000"
        " 92 c404 01000000 c404 08000000",
    ),
    (
        StepResult(
            7,
            0.25,
            (
                RowResult(2, (8, 9), (-0.5, -1.0), 5, 1, End.EOS, draft_cached=6),
                RowResult(
                    3,
                    (8,),
                    (-1.0,),
                    0,
                    0,
                    None,
                    (TopTokens((8,), (-1.0,)),),
                    1,
                    (-0.5,),
                    7,
                    (TopTokens((9,), (-0.5,)),),
                    "no",
                    0.5,
                    "suffix",
                ),
            ),
            4000000000,
        ),
        "8d000000 95 03 07 cb3fd0000000000000"
        " 92 9e 02 c408 0800000009000000 c408 000000bf000080bf 05 01 a9656f735f746f6b656e"
        " 90 00 c400 06 90 a0 cb0000000000000000 a0"
        " 9e 03 c404 08000000 c404 000080bf 00 00 c0"
        " 91 92 c404 08000000 c404 000080bf 01 c404 000000bf 07"
        " 91 92 c404 09000000 c404 000000bf a26e6f cb3fe0000000000000 a6737566666978"
        " ceee6b2800",
    ),
    (Ack(7, 4000000000), "08000000 93 04 07 ceee6b2800"),
    (Ping(3), "03000000 92 05 03"),
    (Pong(3, 7, 300), "07000000 94 06 03 07 cd012c"),
    (Fatal(1, "gap"), "07000000 93 07 01 a3676170"),
    (Prepare(2, "g"), "05000000 93 08 02 a167"),
    (Prepared(2), "03000000 92 09 02"),
    (LoadAdapter(2, 7, "/a"), "07000000 94 0a 02 07 a22f61"),
    (AdapterLoaded(2, 9, ""), "05000000 94 0b 02 09 a0"),
    (UnloadAdapter(7), "03000000 92 0c 07"),
]

int32 = st.integers(-(2**31), 2**31 - 1)
word = st.integers(-(2**63), 2**64 - 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
ids = st.lists(int32, max_size=5).map(tuple)
floats = st.lists(st.floats(width=32, allow_nan=False), max_size=5).map(tuple)
name = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def tuples(item: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(item, max_size=3).map(tuple)


sampling = st.builds(
    Sampling,
    word,
    finite,
    word,
    *[finite] * 6,
    tuples(st.builds(LogitBias, word, finite)),
    st.booleans(),
    word,
)
report = st.builds(ReportOptions, word, st.booleans(), st.booleans())
new = st.builds(
    NewRow,
    word,
    ids,
    word,
    word,
    st.booleans(),
    sampling,
    report,
    st.none() | name,
    word,
    word,
    name,
)
item = st.builds(
    RowResult,
    word,
    ids,
    floats,
    word,
    word,
    st.none() | st.sampled_from(End),
    tuples(st.builds(TopTokens, ids, floats)),
    word,
    floats,
    word,
    tuples(st.builds(TopTokens, ids, floats)),
)
move = st.builds(PageCopy, ids, ids)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, word, word, word),
    st.builds(
        Ready,
        *(word, name, name, name, *[word] * 6, finite, finite, name),
        tuples(st.builds(MeasuredStep, word, word, finite)),
        finite,
        *(word, finite, finite, word),
        tuples(st.builds(MeasuredStep, word, word, finite)),
    ),
    st.builds(
        Step,
        word,
        ids,
        tuples(new),
        tuples(st.builds(AppendPages, word, ids)),
        tuples(st.builds(RowWork, word, word, word, word, word)),
        move,
        move,
        move,
    ),
    st.builds(StepResult, word, finite, tuples(item), word),
    st.builds(Ack, word, word),
    st.builds(Ping, word),
    st.builds(Pong, word, word, word),
    st.builds(Fatal, word, name),
    st.builds(Prepare, word, name),
    st.builds(LoadAdapter, word, word, name),
    st.builds(AdapterLoaded, word, word, name),
    st.builds(UnloadAdapter, word),
    st.builds(Prepared, word),
)


@pytest.mark.parametrize(("message", "frame"), GOLDEN, ids=lambda value: type(value).__name__)
def test_every_message_has_its_golden_bytes(message: Message, frame: str) -> None:
    assert pack(message) == bytes.fromhex(frame)
    assert unpack(bytes.fromhex(frame)[HEADER_BYTES:]) == message


def test_the_golden_bytes_cover_every_message() -> None:
    assert {type(message) for message, _ in GOLDEN} == set(protocol.Message.__args__)


@given(messages)
@settings(max_examples=300, deadline=None)
def test_a_packed_message_unpacks_to_itself(message: Message) -> None:
    frame = pack(message)
    assert body_length(frame[:HEADER_BYTES]) == len(frame) - HEADER_BYTES
    assert unpack(frame[HEADER_BYTES:]) == message


@given(messages, st.data())
@settings(max_examples=500, deadline=None)
def test_a_mutated_frame_is_a_message_or_a_protocol_error(message: Message, data: Any) -> None:
    body = bytearray(pack(message)[HEADER_BYTES:])
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(body)))
        stop = data.draw(st.integers(start, min(len(body), start + 3)))
        body[start:stop] = data.draw(st.binary(max_size=3))
    _unpack_or_refuse(bytes(body))


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_a_message_or_a_protocol_error(body: bytes) -> None:
    _unpack_or_refuse(body)


values = st.recursive(
    st.none() | st.booleans() | word | st.floats() | st.binary(max_size=8) | name,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(name, inner, max_size=2),
    max_leaves=12,
)


@given(st.integers(-1, 9), st.lists(values, max_size=16))
@settings(max_examples=300, deadline=None)
def test_wrong_types_are_refused(code: int, fields: list[Any]) -> None:
    _unpack_or_refuse(msgpack.packb([code, *fields]))


ROW_RESULT: list[Any] = [1, b"", b"", 0, 0, None, [], 0, b"", 0, [], "", 0.0, ""]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({}, "starts with its code"),
        ([], "starts with its code"),
        ([True, 1], "starts with its code"),
        ([99], "unknown message code"),
        ([5], "has 1 fields"),
        ([5, 1, 2], "has 1 fields"),
        ([5, True], "expected int"),
        ([5, 1.0], "expected int"),
        ([3, 1, float("nan"), [], 0], "finite"),
        ([3, 1, 0.0, [[*ROW_RESULT[:1], b"abc", *ROW_RESULT[2:]]], 0], "binary"),
        ([3, 1, 0.0, [[*ROW_RESULT[:5], "weary", *ROW_RESULT[6:]]], 0], "weary"),
        ([2, 1, b"", None, [], [], [b"", b""], [b"", b""], [b"", b""]], "expected an array"),
    ],
)
def test_an_invalid_message_is_refused_with_the_reason(value: Any, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        unpack(msgpack.packb(value))


def test_a_frame_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(ProtocolError, match="exceeds"):
        body_length((MAX_FRAME_BYTES + 1).to_bytes(HEADER_BYTES, "little"))


def test_a_message_over_the_limit_is_not_packed() -> None:
    with pytest.raises(ProtocolError, match="exceeds"):
        pack(Fatal(1, "x" * (MAX_FRAME_BYTES + 1)))


def _unpack_or_refuse(body: bytes) -> None:
    try:
        message = unpack(body)
    except ProtocolError:
        return
    assert isinstance(message, protocol.Message.__args__)
