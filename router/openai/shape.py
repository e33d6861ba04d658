"""What all of OpenAI's answers share: the envelope, usage, finish reasons, errors. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from router import VERSION
from router.errors import RouterError, openai_error
from router.requests.record import LiveRequest, timing
from router.server_info import ServerInfo

_FINISH_REASONS = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}


class ResponseFormatter(Protocol):
    """How one request's Records are told; it may remember what it told."""

    def start_events(self) -> Iterable[dict[str, Any]]:
        """Events before the first token."""

    def token_events(self, index: int, number: int) -> Iterable[dict[str, Any]]:
        """Events of token `number`, from 1, of choice `index`."""

    def final_events(self) -> Iterable[dict[str, Any]]:
        """Events after the last token of all choices."""

    def error_event(self, error: RouterError) -> dict[str, Any]:
        """The event of an error after the headers."""

    def full_response(self) -> dict[str, Any]:
        """The whole, once all choices are finished."""

    ends_with_done: bool
    """Whether the stream ends with `[DONE]`."""


@dataclass(frozen=True, slots=True)
class ResponseHeader:
    """What every object of one request repeats."""

    request_id: str
    created: int
    """Seconds since 1970."""
    model: str

    def common_fields(self, kind: str, prefix: str) -> dict[str, Any]:
        """The first fields of an object."""
        return {
            "object": kind,
            "id": f"{prefix}-{self.request_id}",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"{VERSION}-native",
        }


def error_event_body(error: RouterError) -> dict[str, Any]:
    """An error after the headers, with the status that it would have had."""
    body = openai_error(error)
    return {**body, "error": {**body["error"], "http_status_code": error.status}}


def finish_reason(record: LiveRequest, number: int) -> str | None:
    """OpenAI's finish reason at token `number`; None where more follows."""
    if record.finish_reason is None or number < len(record.tokens):
        return None
    return _FINISH_REASONS[record.finish_reason]


def usage(
    records: Sequence[LiveRequest], choices_per_prompt: int = 1, prompt_only: bool = False
) -> dict[str, Any]:
    """Tokens of `records`, of which each `choices` in a row share a prompt."""
    prompt = sum(len(record.prompt) for record in records[::choices_per_prompt])
    cached = sum(record.cached_tokens for record in records[::choices_per_prompt])
    completion = 0 if prompt_only else sum(len(record.tokens) for record in records)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def speculation_metrics(records: Sequence[LiveRequest], server_info: ServerInfo) -> dict[str, Any]:
    """`metrics` in the shape of vLLM's, summed over choices; nothing without a drafter."""
    if not server_info.speculate:
        return {}
    rounds = [accepted for record in records for accepted in record.accepted_by_round]
    drafted = sum(record.drafted for record in records)
    accepted = sum(rounds)
    longest = max((record.longest_draft for record in records), default=0)
    told = {
        "num_spec_steps": len(rounds),
        "num_draft_tokens": drafted,
        "num_accepted_draft_tokens": accepted,
        "num_spec_tokens": longest,
        "draft_acceptance_rate": accepted / drafted if drafted else 0.0,
        "mean_acceptance_length": 1 + accepted / len(rounds) if rounds else 1.0,
        "acceptance_histogram": [rounds.count(length) for length in range(longest + 1)],
    }
    return {"metrics": {"speculative_decoding": told}}


def stream_headers(
    records: Sequence[LiveRequest], server_info: ServerInfo, choices_per_prompt: int
) -> dict[str, str]:
    """What is known before the first token."""
    characters = sum(len(record.request.inputs) for record in records[::choices_per_prompt])
    return {"x-compute-type": server_info.compute_type, "x-compute-characters": str(characters)}


def tgi_headers(
    records: Sequence[LiveRequest],
    server_info: ServerInfo,
    choices_per_prompt: int = 1,
    *,
    send_compute_time: bool = False,
) -> dict[str, str]:
    """TGI's headers, summed over prompts and choices; times are whole milliseconds.

    If `timed`, the longest of the choices' whole times too, in seconds.
    """
    spent = [timing(record) for record in records]
    longest = max(times.total for times in spent)
    counts = usage(records, choices_per_prompt)
    sums = {
        "x-total-time": sum(times.total for times in spent),
        "x-validation-time": sum(times.validation for times in spent),
        "x-queue-time": sum(times.queue for times in spent),
        "x-inference-time": sum(times.inference for times in spent),
        "x-time-per-token": sum(times.per_token for times in spent),
    }
    return {
        **stream_headers(records, server_info, choices_per_prompt),
        **({"x-compute-time": f"{longest:.6f}"} if send_compute_time else {}),
        **{name: str(int(seconds * 1000)) for name, seconds in sums.items()},
        "x-prompt-tokens": str(counts["prompt_tokens"]),
        "x-generated-tokens": str(counts["completion_tokens"]),
    }
