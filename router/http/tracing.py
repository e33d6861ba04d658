"""A span for each HTTP request, sent to a collector by OTLP over gRPC as TGI does.

The caller's W3C `traceparent` is the span's parent, so that the server's part appears in the
caller's trace. Within it every sequence has a span in the words of `gen_ai`, and in that one spans
for validation, queue, prefill and decode, made from its record once it has ended: the shards take
no part in tracing. The libraries are an extra, `traces`, and are not loaded without an endpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from router.http.context import RECORDS, REQUEST_ID
from router.http.gen_ai import error_type, span_attributes, span_name
from router.requests.record import LiveRequest

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

EXPORT_TIMEOUT_SECONDS = 2.0
"""Timeout of one export; spans that a dead collector does not accept are dropped."""


def make_tracer_provider(endpoint: str, service: str) -> TracerProvider:
    """The provider of spans; `shutdown` sends the last ones and blocks."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    traces = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_SECONDS)
    traces.add_span_processor(BatchSpanProcessor(exporter))
    return traces


def tracing_middleware(provider: TracerProvider, model: str) -> Middleware:
    """A middleware with a span around every request, streams included.

    `model`: the name that spans give to the model.
    """
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer, parent = provider.get_tracer("tgi-laps"), TraceContextTextMapPropagator()

    @web.middleware
    async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
        with tracer.start_as_current_span(
            f"{request.method} {request.path}",
            context=parent.extract(
                {name.lower(): value for name, value in request.headers.items()}
            ),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": request.method, "url.path": request.path},
        ) as span:
            start = monotonic()
            try:
                response = await handler(request)
            finally:
                if isinstance(span, ReadableSpan) and span.start_time:  # false if not sampled
                    zero = span.start_time - _nanoseconds(start)
                    _emit_sequence_spans(tracer, request, model, zero)
            span.set_attribute("http.response.status_code", response.status)
            span.set_attribute("tgi.request_id", request[REQUEST_ID])
            if response.status >= 500:
                span.set_status(Status(StatusCode.ERROR))
            return response

    return traced


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of a sequence; times are readings of the dispatcher's clock, in seconds."""

    name: str
    begin: float
    end: float
    attributes: Mapping[str, int | float]


def phases(record: LiveRequest, now: float) -> Iterator[Phase]:
    """The phases that a sequence reached; one that is still live ends `now`."""
    ended = now if record.is_live else record.ended
    started = record.started if record.steps else ended
    first = record.first_token if record.tokens else ended
    yield Phase("validation", record.arrived, record.queued, {})
    yield Phase("queue", record.queued, started, {})
    if record.steps:
        prompt = {
            "tgi.prompt_tokens": len(record.prompt),
            "tgi.cached_tokens": record.cached_tokens,
        }
        yield Phase("prefill", started, first, prompt)
    if record.tokens:
        yield Phase("decode", first, ended, _decode_attributes(record))


def _decode_attributes(record: LiveRequest) -> dict[str, int | float]:
    """Counts of what was done for a sequence, prefill included."""
    return {
        "tgi.generated_tokens": len(record.tokens),
        "tgi.steps": record.steps,
        "tgi.device_seconds": record.device_seconds,
        "tgi.drafted_tokens": record.drafted,
        "tgi.accepted_tokens": record.accepted,
        "tgi.preemptions": sum(record.preemptions.values()),
    }


def _emit_sequence_spans(
    tracer: Tracer, request: web.Request, model: str, clock_zero_ns: int
) -> None:
    """A span for each sequence, with its phases. `clock_zero_ns`: the Unix time, in nanoseconds, at
    which the dispatcher's clock was 0.
    """
    from opentelemetry.trace import Status, StatusCode, set_span_in_context

    def start(name: str, at: float, attributes: Mapping[str, Any], parent: Span | None) -> Span:
        context = set_span_in_context(parent) if parent else None
        begin = clock_zero_ns + _nanoseconds(at)
        return tracer.start_span(name, context, start_time=begin, attributes=attributes)

    now = monotonic()
    for record in request.get(RECORDS, ()):
        attributes = span_attributes(record, model) | {"gen_ai.response.id": request[REQUEST_ID]}
        whole = start(span_name(record, model), record.arrived, attributes, None)
        for phase in phases(record, now):
            part = start(phase.name, phase.begin, phase.attributes, whole)
            part.end(clock_zero_ns + _nanoseconds(phase.end))
        if error_type(record) is not None:
            whole.set_status(Status(StatusCode.ERROR))
        whole.end(clock_zero_ns + _nanoseconds(now if record.is_live else record.ended))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
