"""TGI's native responses: bodies, stream events and headers of finished and running records.

Pure: records in, JSON-ready values out, with TGI's key order. Log-probabilities are float32 and are
written as in TGI, with the fewest digits that identify the same float32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from router import VERSION
from router.errors import IncompleteGeneration, StreamSerializationError
from router.observability import scheduler_status
from router.requests.record import LiveRequest
from router.requests.request import ResolvedLimits
from router.requests.timing import timing
from router.requests.tokens import GeneratedToken, PromptToken
from router.scheduler.api import SchedulerStatus
from router.server_info import ServerInfo


def info(server_info: ServerInfo, bounds: ResolvedLimits, view: SchedulerStatus) -> dict[str, Any]:
    """Body of `/info`: TGI's keys, then extensions."""
    return {
        "model_id": server_info.model_id,
        "model_sha": server_info.model_sha,
        "model_pipeline_tag": server_info.pipeline_tag,
        "max_concurrent_requests": bounds.max_concurrent_requests,
        "max_best_of": bounds.max_best_of,
        "max_stop_sequences": bounds.max_stop_sequences,
        "max_input_tokens": bounds.max_input_tokens,
        "max_total_tokens": bounds.max_total_tokens,
        "validation_workers": server_info.validation_workers,
        "max_client_batch_size": bounds.max_client_batch_size,
        "router": "text-generation-router",
        "version": VERSION,
        "sha": None,
        "docker_label": None,
        "speculate": server_info.speculate,
        "draft_model_id": server_info.draft_model_id,
        "drafter": server_info.drafter,
        "scheduler": scheduler_status.scheduler_info(server_info.scheduler, view),
    }


def generate_response(
    record: LiveRequest,
    server_info: ServerInfo,
    *,
    full_text: bool,
    others: Sequence[LiveRequest] = (),
) -> dict[str, Any]:
    """Body of a finished generation; `others` are the other sequences of `best_of`.

    Raises IncompleteGeneration if one has no finish reason.
    """
    body: dict[str, Any] = {"generated_text": _generated_text(record, full_text)}
    if record.request.details:
        body["details"] = {
            **_summary(record),
            **_prefill_and_tokens(record),
            **_best_of_sequences(others, full_text),
            **_top_tokens(record),
            **_extension_details(record, server_info),
        }
    return body


def stream_event(
    index: int, record: LiveRequest, server_info: ServerInfo, *, full_text: bool
) -> dict[str, Any]:
    """The event of a record's token number `index`, from 1; the last one carries the details."""
    last = record.finish_reason is not None and index == len(record.tokens)
    return {
        "index": index,
        **_event_token(record, record.tokens[index - 1]),
        "generated_text": _generated_text(record, full_text) if last else None,
        "details": _stream_details(record, server_info)
        if last and record.request.details
        else None,
    }


def stream_headers(record: LiveRequest, server_info: ServerInfo) -> dict[str, str]:
    """The headers that are known before the first token."""
    return {
        "x-compute-type": server_info.compute_type,
        "x-compute-characters": str(len(record.request.inputs)),
    }


def response_headers(record: LiveRequest, server_info: ServerInfo) -> dict[str, str]:
    """TGI's headers of a finished generation, in TGI's order; times are whole milliseconds."""
    spent = timing(record)
    return {
        "x-compute-type": server_info.compute_type,
        "x-compute-time": f"{spent.total:.6f}",
        "x-compute-characters": str(len(record.request.inputs)),
        "x-total-time": _milliseconds(spent.total),
        "x-validation-time": _milliseconds(spent.validation),
        "x-queue-time": _milliseconds(spent.queue),
        "x-inference-time": _milliseconds(spent.inference),
        "x-time-per-token": _milliseconds(spent.per_token),
        "x-prompt-tokens": str(len(record.prompt)),
        "x-generated-tokens": str(len(record.tokens)),
    }


def _generated_text(record: LiveRequest, full_text: bool) -> str:
    if record.finish_reason is None:
        raise IncompleteGeneration
    return f"{record.request.inputs}{record.text}" if full_text else record.text


def _summary(record: LiveRequest) -> dict[str, Any]:
    return {
        "finish_reason": record.finish_reason,
        "generated_tokens": len(record.tokens),
        "seed": record.request.seed,
    }


def _prefill_and_tokens(record: LiveRequest) -> dict[str, Any]:
    return {
        "prefill": [_prompt_token(token) for token in record.prompt_tokens],
        "tokens": [_generated_token(record, token) for token in record.tokens],
    }


def _best_of_sequences(records: Sequence[LiveRequest], full_text: bool) -> dict[str, Any]:
    sequences = [
        {
            "generated_text": _generated_text(record, full_text),
            **_summary(record),
            **_prefill_and_tokens(record),
            **_top_tokens(record),
        }
        for record in records
    ]
    return {"best_of_sequences": sequences} if sequences else {}


def _top_tokens(record: LiveRequest) -> dict[str, Any]:
    if not record.request.top_n_tokens:
        return {}
    return {"top_tokens": [list(map(_token, record.top_tokens(token))) for token in record.tokens]}


def _event_token(record: LiveRequest, token: GeneratedToken) -> dict[str, Any]:
    fields: dict[str, Any] = {"token": _generated_token(record, token)}
    if record.request.top_n_tokens:
        fields["top_tokens"] = list(map(_token, record.top_tokens(token)))
    return fields


def _stream_details(record: LiveRequest, server_info: ServerInfo) -> dict[str, Any]:
    length = {"input_length": len(record.prompt)}
    return {**_summary(record), **length, **_extension_details(record, server_info)}


def _extension_details(record: LiveRequest, server_info: ServerInfo) -> dict[str, Any]:
    """The extensions to TGI's details; none on a server that does not draft."""
    if not server_info.speculate:
        return {}
    counts = {"drafted": record.drafted, "accepted": record.accepted}
    return {**counts, **scheduler_status.service_details(record)}


def _generated_token(record: LiveRequest, token: GeneratedToken) -> dict[str, Any]:
    if not record.request.draft_details:
        return _token(token)
    return {**_token(token), "drafted": token.drafted, "rejected": token.rejected}


def _token(token: GeneratedToken) -> dict[str, Any]:
    return {
        "id": token.id,
        "text": token.text,
        "logprob": _shortest_float32(token.logprob),
        "special": token.special,
    }


def _prompt_token(token: PromptToken) -> dict[str, Any]:
    logprob = None if token.logprob is None else _shortest_float32(token.logprob)
    return {"id": token.id, "text": token.text, "logprob": logprob}


def _shortest_float32(value: float) -> float:
    if not math.isfinite(value):
        raise StreamSerializationError
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", value):
            return short
    return float(f"{value:.9g}")


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
