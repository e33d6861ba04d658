"""A sequence in the words of OpenTelemetry's gen_ai conventions; pure.

The names are those of github.com/open-telemetry/semantic-conventions-genai, whose status is
Development: one span per inference, and the three histograms of a model server. Prompts and texts
are never part of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from router.requests.record import LiveRequest

PROVIDER = "tgi-laps"
OPERATIONS = {0: "text_completion", 1: "chat"}
"""By the kind of text of a request, its `route`."""
FINISH_REASONS = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}

AttributeValue = str | int | float | bool | Sequence[str]
Attributes = dict[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class Durations:
    """What the histograms get of one sequence, in seconds; None for what there was none of."""

    request: float
    time_to_first_token: float | None
    time_per_output_token: float | None
    """After the first."""


def span_name(record: LiveRequest, model: str) -> str:
    """`{operation} {model}`, as the conventions have it."""
    return f"{OPERATIONS[record.request.route]} {model}"


def common_attributes(record: LiveRequest, model: str) -> Attributes:
    """Those of spans and metrics; few different values each."""
    attributes: Attributes = {
        "gen_ai.operation.name": OPERATIONS[record.request.route],
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model,
        "gen_ai.response.model": model,
    }
    if (error := error_type(record)) is not None:
        attributes["error.type"] = error
    return attributes


def span_attributes(record: LiveRequest, model: str) -> Attributes:
    """What was requested, and what it took."""
    optional: Mapping[str, AttributeValue | None] = {
        "gen_ai.request.seed": record.request.seed,
        "gen_ai.request.top_k": record.request.sampling.top_k or None,
        "gen_ai.request.stop_sequences": record.request.stop or None,
        "gen_ai.response.time_to_first_chunk": durations(record, record.ended).time_to_first_token
        if record.request.stream
        else None,
    }
    return {
        **common_attributes(record, model),
        "gen_ai.request.stream": record.request.stream,
        "gen_ai.request.max_tokens": record.max_new,
        "gen_ai.request.temperature": record.request.sampling.temperature,
        "gen_ai.request.top_p": record.request.sampling.top_p,
        "gen_ai.request.frequency_penalty": record.request.sampling.frequency_penalty,
        "gen_ai.request.presence_penalty": record.request.sampling.presence_penalty,
        "gen_ai.response.finish_reasons": [_finish_reason(record)],
        "gen_ai.usage.input_tokens": len(record.prompt),
        "gen_ai.usage.output_tokens": len(record.tokens),
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
        **{name: value for name, value in optional.items() if value is not None},
    }


def durations(record: LiveRequest, now: float) -> Durations:
    """The durations of a sequence; one that is still live ends `now`."""
    ended, tokens = now if record.is_live else record.ended, len(record.tokens)
    return Durations(
        request=ended - record.arrived,
        time_to_first_token=record.first_token - record.arrived if tokens else None,
        time_per_output_token=(ended - record.first_token) / (tokens - 1) if tokens > 1 else None,
    )


def error_type(record: LiveRequest) -> str | None:
    """Why the sequence has no complete answer, as TGI names it; None if it has one."""
    if record.finish_reason is not None:
        return None
    return "cancelled" if record.error is None else record.error.error_type


def _finish_reason(record: LiveRequest) -> str:
    return "error" if record.finish_reason is None else FINISH_REASONS[record.finish_reason]
