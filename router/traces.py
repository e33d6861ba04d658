"""A span for each HTTP request, sent to a collector by OTLP over gRPC as TGI does.

The caller's W3C `traceparent` is the span's parent, so that the server's part appears in the
caller's trace. The libraries are an extra, `traces`; nothing of them is loaded without an endpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from router.routes import REQUEST_ID

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SEND_SECONDS = 2.0
"""Longest time that one delivery may take; what a dead collector is owed is dropped."""


def provider(endpoint: str, service: str) -> TracerProvider:
    """Where spans go; `shutdown` it at the end, off the loop, so that the last ones leave."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    traces = TracerProvider(resource=Resource.create({SERVICE_NAME: service}))
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=SEND_SECONDS)
    traces.add_span_processor(BatchSpanProcessor(exporter))
    return traces


def middleware(traces: TracerProvider) -> Middleware:
    """Put a span around every request, streams included to their end."""
    from opentelemetry.trace import SpanKind, Status, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer, parent = traces.get_tracer("tgi-laps"), TraceContextTextMapPropagator()

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
            response = await handler(request)
            span.set_attribute("http.response.status_code", response.status)
            span.set_attribute("tgi.request_id", request[REQUEST_ID])
            if response.status >= 500:
                span.set_status(Status(StatusCode.ERROR))
            return response

    return traced
