"""What OpenAI's responses have in common: header fields, usage, finish reasons, errors. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from router import VERSION
from router.errors import RouterError, openai_error
from router.requests.record import LiveRequest
from router.requests.timing import timing
from router.server_info import ServerInfo

_FINISH_REASONS = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}


class ResponseFormatter(Protocol):
    """Formats the live requests of one HTTP request; may keep state between events."""

    def start_events(self) -> Iterable[dict[str, Any]]:
        """Events before the first token."""

    def token_events(self, index: int, number: int) -> Iterable[dict[str, Any]]:
        """Events of token `number`, counted from 1, of choice `index`."""

    def final_events(self) -> Iterable[dict[str, Any]]:
        """Events after the last token of all choices."""

    def error_event(self, error: RouterError) -> dict[str, Any]:
        """The event of an error that occurs after the headers."""

    def full_response(self) -> dict[str, Any]:
        """The complete response, once all choices have finished."""

    ends_with_done: bool
    """Whether the stream ends with `[DONE]`."""
    names_events: bool
    """Whether each event has an `event:` line, with its `type`."""


@dataclass(frozen=True, slots=True)
class ResponseHeader:
    """What every object of one response repeats."""

    request_id: str
    created: int
    """Seconds since 1970."""
    model: str

    def common_fields(self, kind: str, prefix: str) -> dict[str, Any]:
        """The first fields of a response object or chunk."""
        return {
            "object": kind,
            "id": f"{prefix}-{self.request_id}",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"{VERSION}-native",
        }


def error_event_body(error: RouterError) -> dict[str, Any]:
    """An error that occurs after the headers, with the HTTP status that it would have had."""
    body = openai_error(error)
    return {**body, "error": {**body["error"], "http_status_code": error.status}}


def finish_reason(record: LiveRequest, number: int) -> str | None:
    """OpenAI's finish reason at token `number`; None if more tokens follow."""
    if record.finish_reason is None or number < len(record.tokens):
        return None
    return _FINISH_REASONS[record.finish_reason]


def usage(
    records: Sequence[LiveRequest], choices_per_prompt: int = 1, prompt_only: bool = False
) -> dict[str, Any]:
    """Token usage of `records`; each `choices_per_prompt` consecutive ones share a prompt."""
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
    """vLLM's `metrics` object, summed over choices; empty without speculative decoding."""
    if not server_info.speculate:
        return {}
    rounds = [accepted for record in records for accepted in record.accepted_by_round]
    drafted = sum(record.drafted for record in records)
    accepted = sum(rounds)
    longest = max((record.longest_draft for record in records), default=0)
    statistics = {
        "num_spec_steps": len(rounds),
        "num_draft_tokens": drafted,
        "num_accepted_draft_tokens": accepted,
        "num_spec_tokens": longest,
        "draft_acceptance_rate": accepted / drafted if drafted else 0.0,
        "mean_acceptance_length": 1 + accepted / len(rounds) if rounds else 1.0,
        "acceptance_histogram": [rounds.count(length) for length in range(longest + 1)],
    }
    return {"metrics": {"speculative_decoding": statistics}}


def stream_headers(
    records: Sequence[LiveRequest], server_info: ServerInfo, choices_per_prompt: int
) -> dict[str, str]:
    """TGI's headers that are known before the first token."""
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

    With `send_compute_time` also the longest total time of a choice, in seconds.
    """
    timings = [timing(record) for record in records]
    longest = max(times.total for times in timings)
    counts = usage(records, choices_per_prompt)
    sums = {
        "x-total-time": sum(times.total for times in timings),
        "x-validation-time": sum(times.validation for times in timings),
        "x-queue-time": sum(times.queue for times in timings),
        "x-inference-time": sum(times.inference for times in timings),
        "x-time-per-token": sum(times.per_token for times in timings),
    }
    return {
        **stream_headers(records, server_info, choices_per_prompt),
        **({"x-compute-time": f"{longest:.6f}"} if send_compute_time else {}),
        **{name: str(int(seconds * 1000)) for name, seconds in sums.items()},
        "x-prompt-tokens": str(counts["prompt_tokens"]),
        "x-generated-tokens": str(counts["completion_tokens"]),
    }
