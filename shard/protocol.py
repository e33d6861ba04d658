"""The wire between the router and every shard: messages, frames, limits.

A frame is a 4-byte little-endian length and a msgpack array ``[code, *fields]``. The union of
messages is closed and its codes are append-only; nested values travel as arrays, token ids as
int32 and log-probabilities as float32 binary. Parsing follows the type hints and accepts nothing
else: a value of the wrong type, an unknown code or an oversized frame is a `ProtocolError`,
which ends the connection. No pickle, no ext types, no torch, no asyncio.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import msgpack

from shard.codec import ProtocolError as ProtocolError
from shard.codec import decoder, encoder

VERSION = 1
MAX_FRAME = 64 << 20
"""Largest frame in bytes; refused before it is read."""
HEADER = 4
"""Bytes of the length prefix."""

Ids = Annotated[tuple[int, ...], "i"]
"""Token or page ids, int32 on the wire."""
Floats = Annotated[tuple[float, ...], "f"]
"""Log-probabilities, float32 on the wire."""


class End(StrEnum):
    """Why a shard ended a request; the values are TGI's finish reasons where it has one."""

    EOS = "eos_token"
    LENGTH = "length"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Bias:
    """What is added to the score of `token`, an id inside the vocabulary."""

    token: int
    value: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the target's next token is chosen. Neutral values switch a processor off.

    `temperature` 0 is greedy, without warpers; `top_k` 0, `top_p` 1, `typical_p` 1 and `min_p` 0
    keep every token. `seed` and the absolute position fix the noise, so the text depends on
    nothing else.
    """

    seed: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    typical_p: float = 1.0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    """Times the token's count in the output."""
    presence_penalty: float = 0.0
    """Once for a token in the output."""
    bias: tuple[Bias, ...] = ()
    """No token twice."""
    watermark: bool = False
    min_new_tokens: int = 0
    """EOS is barred until so many tokens are emitted."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a row's Items tell beside its tokens."""

    top_n: int = 0
    """How many of the likeliest tokens at every position, the prompt's included if it is told."""
    raw: bool = False
    """Log-probabilities of the model itself, not of what processors and warpers left."""
    prompt: bool = False
    """Log-probabilities of the prompt; the prefill must then start at its first token."""


@dataclass(frozen=True, slots=True)
class New:
    """A row the shards do not hold yet, or no longer hold.

    `tokens` is the prompt followed by what was already emitted; the first `prompt` of them are
    the prompt. The row ends once `prompt + max_new` tokens exist. The pages that come with the same
    Step hold the keys and values of the first `cached` tokens for the target, and of the first
    `draft_cached` for the draft: shared with other rows, or brought back from the host.
    """

    id: int
    tokens: Ids
    prompt: int
    max_new: int
    ignore_eos: bool
    sampling: Sampling
    report: Report = Report()
    grammar: str | None = None
    """What the whole output must match, in llguidance's own form; the router has compiled it."""
    cached: int = 0
    draft_cached: int = 0


@dataclass(frozen=True, slots=True)
class Grow:
    """Page ids appended to a row's block table."""

    id: int
    pages: Ids


@dataclass(frozen=True, slots=True)
class Move:
    """Whole pages, target and draft, copied from each of `sources` to the same place in `targets`.

    All are read before any is written.
    """

    sources: Ids = ()
    targets: Ids = ()


@dataclass(frozen=True, slots=True)
class Run:
    """What one row does in a Step.

    `prefill` > 0: feed that many known tokens; the last known one also samples. `prefill` 0:
    draft `draft` tokens after the row's last token and verify them.
    """

    id: int
    prefill: int
    draft: int


@dataclass(frozen=True, slots=True)
class Hello:
    """Router to rank, first frame of a connection."""

    version: int
    rank: int
    world: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of a Step in which `rows` rows decode with `draft` drafts each."""

    rows: int
    draft: int
    seconds: float


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
    costs: tuple[Cost, ...] = ()
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
    new: tuple[New, ...]
    grow: tuple[Grow, ...]
    run: tuple[Run, ...]
    swap_out: Move = Move()
    copy: Move = Move()
    swap_in: Move = Move()


@dataclass(frozen=True, slots=True)
class Top:
    """The likeliest tokens at one position, the likeliest first, ties with the last included."""

    ids: Ids
    logprobs: Floats


@dataclass(frozen=True, slots=True)
class Item:
    """What a Step did for one row; a row that had ended before has no item."""

    id: int
    tokens: Ids
    logprobs: Floats
    """Of the chosen tokens, natural log, one per token; after every processor and warper unless
    the row's report asks for the model's own."""
    drafted: int
    accepted: int
    end: End | None
    top: tuple[Top, ...] = ()
    """One per token where the report asks for them, else none."""
    prompt_start: int = 0
    prompt_logprobs: Floats = ()
    """The model's own, of the prompt's tokens from `prompt_start` on; the first has none."""
    draft_cached: int = 0
    """Leading tokens of the row whose keys and values the draft holds; the target's own count
    where no draft keeps any."""
    prompt_top: tuple[Top, ...] = ()
    """The model's likeliest tokens at the same places, where the report asks for some."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Rank 0 to router. `seconds` is the device time of the Step, `digest` as in `Ack`."""

    number: int
    seconds: float
    items: tuple[Item, ...]
    digest: int


@dataclass(frozen=True, slots=True)
class Ack:
    """Other ranks to router: Step `number` is done; `digest` covers the row table.

    The digest is a zlib.crc32 of every row's id, token count and pages after the Step; the router
    compares it between the ranks.
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


_codes: dict[type, int] = {
    message: code
    for code, message in enumerate((Hello, Ready, Step, StepResult, Ack, Ping, Pong, Fatal))
}
_types = {code: message for message, code in _codes.items()}

Message = Hello | Ready | Step | StepResult | Ack | Ping | Pong | Fatal


def pack(message: Message) -> bytes:
    """The frame of `message`, header included. Raises ProtocolError if it exceeds MAX_FRAME."""
    kind: Any = type(message)
    value = [_codes[kind], *encoder(kind)(message)]
    body: bytes = msgpack.packb(value)
    if len(body) > MAX_FRAME:
        raise ProtocolError(f"a frame of {len(body)} bytes exceeds {MAX_FRAME}")
    return len(body).to_bytes(HEADER, "little") + body


def length(header: bytes) -> int:
    """Body length announced by a 4-byte `header`. Raises ProtocolError above MAX_FRAME."""
    size = int.from_bytes(header, "little")
    if size > MAX_FRAME:
        raise ProtocolError(f"a frame of {size} bytes exceeds {MAX_FRAME}")
    return size


def unpack(body: bytes) -> Message:
    """The message in a frame's `body`. Raises ProtocolError for anything but a valid one."""
    try:
        value = msgpack.unpackb(body, use_list=True, strict_map_key=True)
    except (ValueError, msgpack.UnpackException, RecursionError) as fault:
        raise ProtocolError(f"not msgpack: {fault}") from fault
    if not isinstance(value, list) or not value or type(value[0]) is not int:
        raise ProtocolError("a message is an array that starts with its code")
    if value[0] not in _types:
        raise ProtocolError(f"unknown message code {value[0]}")
    message: Message = decoder(_types[value[0]])(value[1:])
    return message
