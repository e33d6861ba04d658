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


class Details(BaseModel):
    """How an answer came about. `drafted` and `accepted` come from servers with a drafter."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    best_of_sequences: list[BestOfSequence] = []
    top_tokens: list[list[Token]] = []
    drafted: int = 0
    accepted: int = 0


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


class StreamResponse(BaseModel):
    """An event: one token; the last has the whole text."""

    index: int
    token: Token
    top_tokens: list[Token] = []
    generated_text: str | None
    details: StreamDetails | None


class ErrorResponse(BaseModel):
    """What went wrong."""

    error: str
    error_type: str


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


class VertexResponse(BaseModel):
    """A text for each instance."""

    predictions: list[str]
