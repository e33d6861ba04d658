"""TGI's native shapes: bodies, stream events and headers of finished and running records.

Pure: values in, JSON-ready values or bytes out, with TGI's key order. Log-probabilities are
float32 and are written as TGI does, with the fewest digits that name the same float32.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from router import VERSION
from router.errors import Incomplete, Unserialisable
from router.observability import scheduler_status
from router.requests.record import PromptToken, Record, Token, timing
from router.requests.request import Bounds
from router.scheduler.api import View
from router.server_info import About


def info(about: About, bounds: Bounds, view: View) -> dict[str, Any]:
    """Body of `/info`: TGI's keys, then ours."""
    return {
        "model_id": about.model_id,
        "model_sha": about.model_sha,
        "model_pipeline_tag": about.pipeline_tag,
        "max_concurrent_requests": bounds.max_concurrent_requests,
        "max_best_of": bounds.max_best_of,
        "max_stop_sequences": bounds.max_stop_sequences,
        "max_input_tokens": bounds.max_input_tokens,
        "max_total_tokens": bounds.max_total_tokens,
        "validation_workers": about.validation_workers,
        "max_client_batch_size": bounds.max_client_batch_size,
        "router": "text-generation-router",
        "version": VERSION,
        "sha": None,
        "docker_label": None,
        "speculate": about.speculate,
        "draft_model_id": about.draft_model_id,
        "scheduler": scheduler_status.overview(about.scheduler, view),
    }


def answer(
    record: Record, about: About, *, full_text: bool, others: Sequence[Record] = ()
) -> dict[str, Any]:
    """Body of a finished generation that won over `others`.

    Raises Incomplete where one has not finished.
    """
    body: dict[str, Any] = {"generated_text": _text(record, full_text)}
    if record.request.details:
        body["details"] = {
            **_summary(record),
            **_prefill_and_tokens(record),
            **_others(others, full_text),
            **_top_tokens(record),
            **_speculation(record, about),
        }
    return body


def event(index: int, record: Record, about: About, *, full_text: bool) -> dict[str, Any]:
    """The event of a record's token number `index`, counted from 1; the last one sums up."""
    last = record.finish_reason is not None and index == len(record.tokens)
    return {
        "index": index,
        **_event_token(record, record.tokens[index - 1]),
        "generated_text": _text(record, full_text) if last else None,
        "details": _last_details(record, about) if last and record.request.details else None,
    }


def stream_headers(record: Record, about: About) -> dict[str, str]:
    """What is known before the first token."""
    return {
        "x-compute-type": about.compute_type,
        "x-compute-characters": str(len(record.request.inputs)),
    }


def headers(record: Record, about: About) -> dict[str, str]:
    """TGI's headers of a finished generation, in TGI's order; times are whole milliseconds."""
    spent = timing(record)
    return {
        "x-compute-type": about.compute_type,
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


def _text(record: Record, full_text: bool) -> str:
    if record.finish_reason is None:
        raise Incomplete
    return f"{record.request.inputs}{record.text}" if full_text else record.text


def _summary(record: Record) -> dict[str, Any]:
    return {
        "finish_reason": record.finish_reason,
        "generated_tokens": len(record.tokens),
        "seed": record.request.seed,
    }


def _prefill_and_tokens(record: Record) -> dict[str, Any]:
    return {
        "prefill": [_prompt_token(token) for token in record.prefill],
        "tokens": [_token(token) for token in record.tokens],
    }


def _others(records: Sequence[Record], full_text: bool) -> dict[str, Any]:
    sequences = [
        {
            "generated_text": _text(record, full_text),
            **_summary(record),
            **_prefill_and_tokens(record),
            **_top_tokens(record),
        }
        for record in records
    ]
    return {"best_of_sequences": sequences} if sequences else {}


def _top_tokens(record: Record) -> dict[str, Any]:
    if not record.request.top_n_tokens:
        return {}
    return {"top_tokens": [list(map(_token, token.top)) for token in record.tokens]}


def _event_token(record: Record, token: Token) -> dict[str, Any]:
    told: dict[str, Any] = {"token": _token(token)}
    if record.request.top_n_tokens:
        told["top_tokens"] = list(map(_token, token.top))
    return told


def _last_details(record: Record, about: About) -> dict[str, Any]:
    length = {"input_length": len(record.prompt)}
    return {**_summary(record), **length, **_speculation(record, about)}


def _speculation(record: Record, about: About) -> dict[str, Any]:
    """Ours; a server that does not draft tells TGI's keys only."""
    if not about.speculate:
        return {}
    counts = {"drafted": record.drafted, "accepted": record.accepted}
    return {**counts, **scheduler_status.spent(record)}


def _token(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "text": token.text,
        "logprob": _shortest(token.logprob),
        "special": token.special,
    }


def _prompt_token(token: PromptToken) -> dict[str, Any]:
    logprob = None if token.logprob is None else _shortest(token.logprob)
    return {"id": token.id, "text": token.text, "logprob": logprob}


def _shortest(value: float) -> float:
    if not math.isfinite(value):
        raise Unserialisable
    for digits in range(6, 9):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", value):
            return short
    return float(f"{value:.9g}")


def _milliseconds(seconds: float) -> str:
    return str(int(seconds * 1000))
