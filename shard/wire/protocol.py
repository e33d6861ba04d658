"""The protocol between the router and each shard: messages, frames, limits.

A frame is a 4-byte little-endian length and a msgpack array ``[code, *fields]``. The set of
messages is closed and their codes are append-only. Nested values are arrays, token ids int32 binary
and log-probabilities float32 binary. Parsing follows the type hints and accepts nothing else: a
value of the wrong type, an unknown code or an oversized frame is a `ProtocolError`, which ends the
connection. No pickle, no ext types, no torch, no asyncio. Other packages import only this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from shard.wire.codec import ProtocolError as ProtocolError
from shard.wire.codec import decoder, encoder
from shard.wire.messages import GRAMMAR as GRAMMAR
from shard.wire.messages import NO_COPY
from shard.wire.messages import SUFFIX as SUFFIX
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

VERSION = 3
MAX_FRAME_BYTES = 64 << 20
"""Maximum size of a frame; a larger one is refused before it is read."""
HEADER_BYTES = 4
"""Bytes of the length prefix."""
MAX_GRAMMAR_ITEMS = 2000
"""Maximum number of Earley items for one mask of a grammar, where it compiles and where it runs.

A mask that needs them takes about 30 ms.
"""
MAX_FORCED_TOKENS = 16
"""Maximum number of tokens that a row drafts in one step because its grammar forces them."""
MAX_GRAMMAR_STATES = 50_000
"""Maximum number of lexer states of a grammar, at 1 to 2 kB each; the same on both sides."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Router to rank, the first message of a connection."""

    version: int
    rank: int
    world: int


@dataclass(frozen=True, slots=True)
class Ready:
    """Rank to router, the answer to `Hello`: the rank's model, capacity and measured costs."""

    rank: int
    model: str
    device: str
    dtype: str
    page_size: int
    """Tokens per page."""
    pages: int
    """Usable pages, without page 0, the trash page."""
    max_rows: int
    max_length: int
    """Maximum number of tokens of one row that the model is fed, prompt and output; the last token
    that a row emits is not."""
    vocab_size: int
    speculate: int
    """Maximum draft length; 0 without a drafter."""
    draft_token_seconds: float
    """Seconds of one draft forward for one row, measured at warm-up (the paper's T_SSM)."""
    verify_seconds: float
    """Seconds of one verify forward for one row, measured at warm-up (the paper's T_LLM)."""
    drafter: str = ""
    """`model`, `ngram`, `suffix`, `auto` for several, or empty without a drafter."""
    costs: tuple[MeasuredStep, ...] = ()
    """Measured at warm-up. Each number of rows in it occurs with draft length 0."""
    catch_up_seconds: float = 0.0
    """Seconds that the drafter needs for one token that it has missed, measured at warm-up."""
    host_pages: int = 0
    """Pages of the swap pool in host memory."""
    swap_token_seconds: float = 0.0
    """Seconds to copy one token's keys and values to the host or back, measured at warm-up."""
    prefill_token_seconds: float = 0.0
    """Seconds per prefilled token of a long chunk, draft included, measured at warm-up."""
    suffix: int = 0
    """Maximum length of drafts by suffix decoding next to another drafter; 0 without."""
    suffix_costs: tuple[MeasuredStep, ...] = ()
    """As `costs`, of Steps whose drafts take no time, up to `suffix`."""


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered unit of work.

    Ranks apply release, new, grow, swap_out (pages to host slots), copy (pages to pages) and
    swap_in (host slots to pages) in this order, then run. The copies of swap_in may overlap with
    the runs, so a row whose pages are swapped in is not in `run` of the same step.
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
    """Rank 0 to router. `seconds` is the step's device time, `digest` is as in `Ack`."""

    number: int
    seconds: float
    items: tuple[RowResult, ...]
    digest: int


@dataclass(frozen=True, slots=True)
class Ack:
    """Other ranks to router: step `number` is complete.

    `digest` is a zlib.crc32 of the state of the rows that it ran, as of the end of the step. The
    router compares it between ranks.
    """

    number: int
    digest: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Router to rank; the reader thread answers with `Pong`, even during a step."""

    nonce: int


@dataclass(frozen=True, slots=True)
class Pong:
    """Rank to router; `step` is the last step that this rank completed."""

    nonce: int
    step: int
    progress: int
    """A number that changes while the rank computes, several times in each step."""


@dataclass(frozen=True, slots=True)
class Fatal:
    """Rank to router: this rank has failed. `code` is the exit status of its process."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Prepare:
    """Router to rank: prepare for rows with `grammar`. Answered by `Prepared`, even during a step.

    It is optional: without it, the step that brings the row waits for the grammar.
    """

    number: int
    grammar: str
    """In llguidance's format, as in `NewRow`."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rank to router: the `Prepare` with this `number` is complete."""

    number: int


@dataclass(frozen=True, slots=True)
class LoadAdapter:
    """Router to rank: load an adapter. Answered by `AdapterLoaded`, even during a step."""

    number: int
    """Of the request."""
    adapter: int
    """Of the adapter, as in `NewRow`; never given twice."""
    path: str
    """Its folder."""


@dataclass(frozen=True, slots=True)
class AdapterLoaded:
    """Rank to router: the `LoadAdapter` with this `number` is complete."""

    number: int
    size: int
    """Bytes that the adapter takes on this rank."""
    fault: str = ""
    """Why it is not loaded, in one line; empty if it is."""


@dataclass(frozen=True, slots=True)
class UnloadAdapter:
    """Router to rank, in order with the steps: no later step brings a row with this adapter."""

    adapter: int


_MESSAGE_TYPES = (
    Hello,
    Ready,
    Step,
    StepResult,
    Ack,
    Ping,
    Pong,
    Fatal,
    Prepare,
    Prepared,
    LoadAdapter,
    AdapterLoaded,
    UnloadAdapter,
)
_code_of_type: dict[type, int] = {message: code for code, message in enumerate(_MESSAGE_TYPES)}
_type_of_code = {code: message for message, code in _code_of_type.items()}

Message = (
    Hello
    | Ready
    | Step
    | StepResult
    | Ack
    | Ping
    | Pong
    | Fatal
    | Prepare
    | Prepared
    | LoadAdapter
    | AdapterLoaded
    | UnloadAdapter
)


def pack(message: Message) -> bytes:
    """The frame of `message`, with its header. Raises ProtocolError above MAX_FRAME_BYTES."""
    kind: Any = type(message)
    value = [_code_of_type[kind], *encoder(kind)(message)]
    body: bytes = msgpack.packb(value)
    if len(body) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {len(body)} bytes exceeds {MAX_FRAME_BYTES}")
    return len(body).to_bytes(HEADER_BYTES, "little") + body


def body_length(header: bytes) -> int:
    """The length of the body, from a frame's header. Raises ProtocolError above MAX_FRAME_BYTES."""
    size = int.from_bytes(header, "little")
    if size > MAX_FRAME_BYTES:
        raise ProtocolError(f"a frame of {size} bytes exceeds {MAX_FRAME_BYTES}")
    return size


def unpack(body: bytes) -> Message:
    """Parse the message in a frame's `body`. Raises ProtocolError if it is not valid."""
    try:
        value = msgpack.unpackb(body, use_list=True, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"not msgpack: {error}") from error
    if not isinstance(value, list) or not value or type(value[0]) is not int:
        raise ProtocolError("a message is an array that starts with its code")
    if value[0] not in _type_of_code:
        raise ProtocolError(f"unknown message code {value[0]}")
    message: Message = decoder(_type_of_code[value[0]])(value[1:])
    return message
