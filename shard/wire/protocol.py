"""The wire between the router and every shard: messages, frames, limits. All that users import.

A frame is a 4-byte little-endian length and a msgpack array ``[code, *fields]``. The union of
messages is closed and its codes are append-only; nested values travel as arrays, token ids as
int32 and log-probabilities as float32 binary. Parsing follows the type hints and accepts nothing
else: a value of the wrong type, an unknown code or an oversized frame is a `ProtocolError`,
which ends the connection. No pickle, no ext types, no torch, no asyncio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from shard.wire.codec import ProtocolError as ProtocolError
from shard.wire.codec import decoder, encoder
from shard.wire.messages import NO_COPY
from shard.wire.messages import AppendPages as AppendPages
from shard.wire.messages import End as End
from shard.wire.messages import Floats as Floats
from shard.wire.messages import Ids as Ids
from shard.wire.messages import LogitBias as LogitBias
from shard.wire.messages import MeasuredStep as MeasuredStep
from shard.wire.messages import NewRow as NewRow
from shard.wire.messages import PageCopy as PageCopy
from shard.wire.messages import ReportOptions as ReportOptions
from shard.wire.messages import RowResult as RowResult
from shard.wire.messages import RowWork as RowWork
from shard.wire.messages import Sampling as Sampling
from shard.wire.messages import TopTokens as TopTokens

VERSION = 1
MAX_FRAME_BYTES = 64 << 20
"""Largest frame in bytes; refused before it is read."""
HEADER_BYTES = 4
"""Bytes of the length prefix."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Router to rank, first frame of a connection."""

    version: int
    rank: int
    world: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Rank to router, the answer to `Hello`: what this rank serves and can hold."""

    rank: int
    model: str
    device: str
    dtype: str
    page_size: int
    """Tokens per page."""
    pages: int
    """Usable pages; page 0 is the trash page and is not among them."""
    max_rows: int
    max_length: int
    """Most tokens, prompt and output, of one row."""
    vocab_size: int
    speculate: int
    """Largest draft length; 0 where there is no drafter."""
    draft_token_seconds: float
    """Seconds of one draft forward for one row, measured at warm-up (the paper's T_SSM)."""
    verify_seconds: float
    """Seconds of one verify forward for one row, measured at warm-up (the paper's T_LLM)."""
    drafter: str = ""
    """Who drafts: `model`, `ngram`, or nobody."""
    costs: tuple[MeasuredStep, ...] = ()
    """Measured at warm-up. For every number of rows in it there is a draft length of 0."""
    catch_up_seconds: float = 0.0
    """Seconds that the drafter needs for one token that it has missed, measured at warm-up."""
    host_pages: int = 0
    """Pages that fit the host's memory, for rows swapped out."""
    swap_token_seconds: float = 0.0
    """Seconds to copy one token's keys and values to the host, or back; measured at warm-up."""
    prefill_token_seconds: float = 0.0
    """Seconds of one prefilled token of a long chunk, draft included; measured at warm-up."""


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered unit of work.

    Ranks apply release, new, grow, swap_out (pages to host slots), copy (pages to pages) and
    swap_in (host slots to pages) in this order, then run. The copies of swap_in may overlap with
    the runs: a row whose pages come back is not in `run` of the same Step.
    """

    number: int
    release: Ids
    new: tuple[NewRow, ...]
    grow: tuple[AppendPages, ...]
    run: tuple[RowWork, ...]
    swap_out: PageCopy = NO_COPY
    copy: PageCopy = NO_COPY
    swap_in: PageCopy = NO_COPY


@dataclass(frozen=True, slots=True)
class StepResult:
    """Rank 0 to router. `seconds` is the device time of the Step, `digest` as in `Ack`."""

    number: int
    seconds: float
    items: tuple[RowResult, ...]
    digest: int


@dataclass(frozen=True, slots=True)
class Ack:
    """Other ranks to router: Step `number` is done; `digest` covers the rows that it ran.

    The digest is a zlib.crc32 of what the rank knows of them after the Step, whatever it has
    started since; the router compares it between the ranks.
    """

    number: int
    digest: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Router to rank; answered by the reader thread with `Pong`, also during a Step."""

    nonce: int


@dataclass(frozen=True, slots=True)
class Pong:
    """Rank to router; `step` is the last Step this rank finished."""

    nonce: int
    step: int


@dataclass(frozen=True, slots=True)
class Fatal:
    """Rank to router: this rank cannot go on. `code` is the process's exit status."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Prepare:
    """Router to rank: rows with this `grammar` will come; `Prepared` answers, also during Steps.

    A row may come without it, and then waits for its grammar inside the Step that brings it.
    """

    number: int
    grammar: str
    """llguidance's own form, as in `NewRow`."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rank to router: the Prepare of this `number` is done."""

    number: int


_MESSAGE_TYPES = (Hello, Ready, Step, StepResult, Ack, Ping, Pong, Fatal, Prepare, Prepared)
_code_of_type: dict[type, int] = {message: code for code, message in enumerate(_MESSAGE_TYPES)}
_type_of_code = {code: message for message, code in _code_of_type.items()}

Message = Hello | Ready | Step | StepResult | Ack | Ping | Pong | Fatal | Prepare | Prepared


def pack(message: Message) -> bytes:
    """The frame of `message`, header included. Raises ProtocolError if it exceeds MAX_FRAME."""
    kind: Any = type(message)
    value = [_code_of_type[kind], *encoder(kind)(message)]
    body: bytes = msgpack.packb(value)
    if len(body) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {len(body)} bytes exceeds {MAX_FRAME_BYTES}")
    return len(body).to_bytes(HEADER_BYTES, "little") + body


def body_length(header: bytes) -> int:
    """Body length announced by a 4-byte `header`. Raises ProtocolError above MAX_FRAME."""
    size = int.from_bytes(header, "little")
    if size > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {size} bytes exceeds {MAX_FRAME_BYTES}")
    return size


def unpack(body: bytes) -> Message:
    """The message in a frame's `body`. Raises ProtocolError for anything but a valid one."""
    try:
        value = msgpack.unpackb(body, use_list=True, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as fault:
        raise ProtocolError(f"not msgpack: {fault}") from fault
    if not isinstance(value, list) or not value or type(value[0]) is not int:
        raise ProtocolError("a message is an array that starts with its code")
    if value[0] not in _type_of_code:
        raise ProtocolError(f"unknown message code {value[0]}")
    message: Message = decoder(_type_of_code[value[0]])(value[1:])
    return message
