"""What all of OpenAI's answers share: the envelope, usage, finish reasons, errors. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from router import VERSION
from router.errors import RouterError, nested
from router.requests.record import Record, timing
from router.server_info import About

_FINISH = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}


class Shape(Protocol):
    """How one request's Records are told; it may remember what it told."""

    def begin(self) -> Iterable[dict[str, Any]]:
        """Events before the first token."""

    def token(self, index: int, number: int) -> Iterable[dict[str, Any]]:
        """Events of token `number`, from 1, of choice `index`."""

    def end(self) -> Iterable[dict[str, Any]]:
        """Events after the last token of all choices."""

    def failed(self, error: RouterError) -> dict[str, Any]:
        """The event of an error after the headers."""

    def answer(self) -> dict[str, Any]:
        """The whole, once all choices are finished."""

    done: bool
    """Whether the stream ends with `[DONE]`."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every object of one request repeats."""

    request_id: str
    created: int
    """Seconds since 1970."""
    model: str

    def head(self, kind: str, prefix: str) -> dict[str, Any]:
        """The first fields of an object."""
        return {
            "object": kind,
            "id": f"{prefix}-{self.request_id}",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": f"{VERSION}-native",
        }


def failure_event(error: RouterError) -> dict[str, Any]:
    """An error after the headers, with the status that it would have had."""
    body = nested(error)
    return {**body, "error": {**body["error"], "http_status_code": error.status}}


def finish(record: Record, number: int) -> str | None:
    """OpenAI's finish reason at token `number`; None where more follows."""
    if record.finish_reason is None or number < len(record.tokens):
        return None
    return _FINISH[record.finish_reason]


def usage(records: Sequence[Record], choices: int = 1, silent: bool = False) -> dict[str, Any]:
    """Tokens of `records`, of which each `choices` in a row share a prompt."""
    prompt = sum(len(record.prompt) for record in records[::choices])
    cached = sum(record.cached for record in records[::choices])
    completion = 0 if silent else sum(len(record.tokens) for record in records)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def speculation(records: Sequence[Record], about: About) -> dict[str, Any]:
    """`metrics` in the shape of vLLM's, summed over choices; nothing without a drafter."""
    if not about.speculate:
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


def stream_headers(records: Sequence[Record], about: About, choices: int) -> dict[str, str]:
    """What is known before the first token."""
    characters = sum(len(record.request.inputs) for record in records[::choices])
    return {"x-compute-type": about.compute_type, "x-compute-characters": str(characters)}


def headers(
    records: Sequence[Record], about: About, choices: int = 1, *, timed: bool = False
) -> dict[str, str]:
    """TGI's headers, summed over prompts and choices; times are whole milliseconds.

    If `timed`, the longest of the choices' whole times too, in seconds.
    """
    spent = [timing(record) for record in records]
    longest = max(times.total for times in spent)
    counts = usage(records, choices)
    sums = {
        "x-total-time": sum(times.total for times in spent),
        "x-validation-time": sum(times.validation for times in spent),
        "x-queue-time": sum(times.queue for times in spent),
        "x-inference-time": sum(times.inference for times in spent),
        "x-time-per-token": sum(times.per_token for times in spent),
    }
    return {
        **stream_headers(records, about, choices),
        **({"x-compute-time": f"{longest:.6f}"} if timed else {}),
        **{name: str(int(seconds * 1000)) for name, seconds in sums.items()},
        "x-prompt-tokens": str(counts["prompt_tokens"]),
        "x-generated-tokens": str(counts["completion_tokens"]),
    }
