"""Response bodies of TGI's native routes, for the OpenAPI document; `response_bodies` writes them.

Names are those of TGI's own document, which generated clients know. A default of None or zero marks
what only some responses have.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from router.http.json_response import ResponseModel

FinishReason = Literal["length", "eos_token", "stop_sequence"]


class Token(ResponseModel):
    """A generated token."""

    id: int
    """Token id."""
    text: str
    """Text that the token adds to the output."""
    logprob: float
    """Natural logarithm of the token's probability."""
    special: bool
    """Whether the token is a special token."""
    drafted: bool = False
    """Whether the token was drafted. Only with `draft_details`."""
    rejected: int = 0
    """Number of drafted tokens that were rejected in favor of this one. Only with `draft_details`.
    """


class PrefillToken(ResponseModel):
    """A token of the prompt."""

    id: int
    """Token id."""
    text: str
    """Text of the token."""
    logprob: float | None
    """Natural logarithm of the token's probability; null for the first token."""


class SimpleToken(ResponseModel):
    """A token of a text and its position in the text's UTF-8 bytes."""

    id: int
    """Token id."""
    text: str
    """Text of the token."""
    start: int
    """Offset of the token's first byte."""
    stop: int
    """Offset after the token's last byte."""


class BestOfSequence(ResponseModel):
    """A sequence other than the most likely one."""

    generated_text: str
    """The generated text."""
    finish_reason: FinishReason
    """Why generation stopped."""
    generated_tokens: int
    """Number of generated tokens."""
    seed: int | None
    """Sampling seed; null for greedy decoding."""
    prefill: list[PrefillToken]
    """Tokens of the prompt, if requested."""
    tokens: list[Token]
    """The generated tokens."""
    top_tokens: list[list[Token]] = Field(default=[])
    """The most likely tokens at each position, if requested."""


class Preemptions(ResponseModel):
    """Number of preemptions, by what happened to the KV cache."""

    keep: int
    """Preemptions that kept the cache in place."""
    swap: int
    """Preemptions that swapped the cache out to host memory."""
    recompute: int
    """Preemptions that dropped the cache, to be computed again."""


class Details(ResponseModel):
    """Details of a generation."""

    finish_reason: FinishReason
    """Why generation stopped."""
    generated_tokens: int
    """Number of generated tokens."""
    seed: int | None
    """Sampling seed; null for greedy decoding."""
    prefill: list[PrefillToken]
    """Tokens of the prompt, if requested."""
    tokens: list[Token]
    """The generated tokens."""
    best_of_sequences: list[BestOfSequence] = Field(default=[])
    """The other sequences, if `best_of` is above 1."""
    top_tokens: list[list[Token]] = Field(default=[])
    """The most likely tokens at each position, if requested."""
    drafted: int = 0
    """Number of drafted tokens. Only with speculative decoding."""
    accepted: int = 0
    """Number of drafted tokens that were accepted. Only with speculative decoding."""
    queue_time: float = 0.0
    """Seconds before the first prefill. Only with speculative decoding."""
    attained_service: float = 0.0
    """Seconds of device time. Only with speculative decoding."""
    preemptions: Preemptions | None = None
    """Number of preemptions, by kind. Only with speculative decoding."""


class GenerateResponse(ResponseModel):
    """A complete generation."""

    generated_text: str
    """The generated text."""
    details: Details | None = None
    """Details of the generation, if requested."""


class StreamDetails(ResponseModel):
    """Details of a streamed generation, in its last event."""

    finish_reason: FinishReason
    """Why generation stopped."""
    generated_tokens: int
    """Number of generated tokens."""
    seed: int | None
    """Sampling seed; null for greedy decoding."""
    input_length: int
    """Number of tokens of the prompt."""
    drafted: int = 0
    """Number of drafted tokens. Only with speculative decoding."""
    accepted: int = 0
    """Number of drafted tokens that were accepted. Only with speculative decoding."""
    queue_time: float = 0.0
    """Seconds before the first prefill. Only with speculative decoding."""
    attained_service: float = 0.0
    """Seconds of device time. Only with speculative decoding."""
    preemptions: Preemptions | None = None
    """Number of preemptions, by kind. Only with speculative decoding."""


class StreamResponse(ResponseModel):
    """One event of a stream: one token; the last one also has the complete text."""

    index: int
    """Number of the token, from 1."""
    token: Token
    """The generated token."""
    top_tokens: list[Token] = Field(default=[])
    """The most likely tokens at this position, if requested."""
    generated_text: str | None
    """The complete text, in the last event; otherwise null."""
    details: StreamDetails | None
    """Details of the generation, in the last event if requested; otherwise null."""


class SchedulerInfo(ResponseModel):
    """State of the scheduler."""

    policy: str
    """Name of the scheduling policy."""
    queue_depth: list[int]
    """Number of waiting requests by priority level, the highest level first."""
    running: int
    """Number of running requests."""
    perceptible_share: float
    """Fraction of the live requests that are ranked by their remaining time, 0 to 1."""
    estimate_error: float
    """Mean relative error of the estimated execution times."""
    acceptance_rate: float
    """Fraction of drafted tokens that were accepted, 0 to 1."""
    preemptions: Preemptions
    """Number of preemptions since the start, by kind."""


class Info(ResponseModel):
    """The model that is served, and the limits of requests."""

    model_id: str
    """Name of the model."""
    model_sha: str | None
    """Revision of the model."""
    model_pipeline_tag: str | None
    """Task of the model on the Hugging Face Hub."""
    max_concurrent_requests: int
    """Maximum number of concurrent requests."""
    max_best_of: int
    """Maximum value of `best_of`."""
    max_stop_sequences: int
    """Maximum number of stop sequences."""
    max_input_tokens: int
    """Maximum number of tokens of a prompt."""
    max_total_tokens: int
    """Maximum number of tokens of prompt and output together."""
    validation_workers: int
    """Number of tokenization workers."""
    max_client_batch_size: int
    """Maximum number of prompts of one request."""
    router: str
    """Name of the router."""
    version: str
    """Version of the server."""
    sha: str | None
    """Git revision of the server."""
    docker_label: str | None
    """Label of the container image."""
    speculate: int
    """Maximum number of tokens drafted per decoding step; 0 without speculative decoding."""
    draft_model_id: str | None
    """Name of the draft model."""
    drafter: str | None
    """The kind of drafter: `model`, `ngram`, `suffix` or `auto`; null if nothing is drafted."""
    scheduler: SchedulerInfo
    """State of the scheduler."""


class VertexResponse(ResponseModel):
    """One generated text for each instance."""

    predictions: list[str]
    """The generated texts, in the order of the instances."""


class SequenceStatus(ResponseModel):
    """Status of one sequence of a live request. Fields unknown to the scheduler may be missing."""

    state: Literal["queued", "running", "paused"]
    """State of the sequence."""
    emitted_tokens: int
    """Number of tokens generated so far."""
    level: int = 0
    """Priority level, 0 is the highest."""
    perceptible: bool = False
    """Whether the sequence is ranked by its remaining time."""
    estimated_wait: float = 0.0
    """Estimated seconds until the sequence is scheduled next."""
    estimated_service: float = 0.0
    """Estimated seconds of device time that remain."""
    attained_service: float = 0.0
    """Seconds of device time so far."""
    preemptions: Preemptions | None = None
    """Number of preemptions, by kind."""


class RequestStatusResponse(ResponseModel):
    """Status of a live request."""

    request_id: str
    """The request's `x-request-id`."""
    sequences: list[SequenceStatus]
    """Status of each of its sequences."""


class CancelResponse(ResponseModel):
    """Result of a cancellation."""

    request_id: str
    """The request's `x-request-id`."""
    cancelled: int
    """Number of sequences that were cancelled."""
