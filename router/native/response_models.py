"""The shapes of TGI's answers, as the OpenAPI document tells them; `native` writes them.

Names are those of TGI's own document, which generated clients know. What only some answers have is
marked by a default of None.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

FinishReason = Literal["length", "eos_token", "stop_sequence"]


class Token(BaseModel):
    """A generated token."""

    id: int
    text: str
    logprob: float
    special: bool


class PrefillToken(BaseModel):
    """A token of the prompt; the first has no log-probability."""

    id: int
    text: str
    logprob: float | None


class SimpleToken(BaseModel):
    """A token of a text and its place in the text's UTF-8 bytes."""

    id: int
    text: str
    start: int
    stop: int


class BestOfSequence(BaseModel):
    """A sequence that was not the likeliest."""

    generated_text: str
    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    top_tokens: list[list[Token]] = []


class Preemptions(BaseModel):
    """How often a request was interrupted: its KV kept in place, swapped out, or dropped."""

    keep: int
    swap: int
    recompute: int


class Details(BaseModel):
    """How an answer came about; all from `drafted` on comes from servers with a drafter.

    `queue_time` and `attained_service` (the share of Steps on the device) are seconds.
    """

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    best_of_sequences: list[BestOfSequence] = []
    top_tokens: list[list[Token]] = []
    drafted: int = 0
    accepted: int = 0
    queue_time: float = 0.0
    attained_service: float = 0.0
    preemptions: Preemptions | None = None


class GenerateResponse(BaseModel):
    """A whole answer."""

    generated_text: str
    details: Details | None = None


class StreamDetails(BaseModel):
    """The same of a stream, in its last event."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    input_length: int
    drafted: int = 0
    accepted: int = 0
    queue_time: float = 0.0
    attained_service: float = 0.0
    preemptions: Preemptions | None = None


class StreamResponse(BaseModel):
    """An event: one token; the last has the whole text."""

    index: int
    token: Token
    top_tokens: list[Token] = []
    generated_text: str | None
    details: StreamDetails | None


class SchedulerInfo(BaseModel):
    """The order of service, and how the requests stand in it.

    `queue_depth` by level, the highest first; shares and the mean relative error of estimated
    execution times are fractions.
    """

    policy: str
    queue_depth: list[int]
    running: int
    perceptible_share: float
    estimate_error: float
    acceptance_rate: float
    preemptions: Preemptions


class Info(BaseModel):
    """What is served, and within which limits."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: str | None
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int
    max_client_batch_size: int
    router: str
    version: str
    sha: str | None
    docker_label: str | None
    speculate: int
    draft_model_id: str | None
    scheduler: SchedulerInfo


class VertexResponse(BaseModel):
    """A text for each instance."""

    predictions: list[str]


class SequenceStatus(BaseModel):
    """A live sequence of a request. Times are seconds; what the scheduler knows may be missing.

    `estimated_wait` is until its next service, `estimated_service` what it still needs.
    """

    state: Literal["queued", "running", "paused"]
    emitted_tokens: int
    level: int = 0
    perceptible: bool = False
    estimated_wait: float = 0.0
    estimated_service: float = 0.0
    attained_service: float = 0.0
    preemptions: Preemptions | None = None


class RequestStatusResponse(BaseModel):
    """How the live sequences of a request stand."""

    request_id: str
    sequences: list[SequenceStatus]


class CancelResponse(BaseModel):
    """How many sequences of a request were stopped."""

    request_id: str
    cancelled: int
