"""The histograms of a model server in OpenTelemetry's gen_ai conventions, sent by OTLP over gRPC.

They get each sequence once, when its HTTP request ends. Buckets are those of the conventions. The
libraries are the extra `traces`, and are not loaded without an endpoint; `/metrics` needs neither.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from router.http.context import RECORDS
from router.http.gen_ai import common_attributes, durations
from router.requests.record import LiveRequest

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider

EXPORT_INTERVAL_SECONDS = 15.0
EXPORT_TIMEOUT_SECONDS = 2.0
REQUEST_BUCKETS = tuple(0.01 * 2**k for k in range(14))
TIME_TO_FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
TIME_PER_OUTPUT_TOKEN_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5),
)
HISTOGRAMS = {
    "gen_ai.server.request.duration": (
        "Seconds from arrival to the last token",
        REQUEST_BUCKETS,
    ),
    "gen_ai.server.time_to_first_token": (
        "Seconds from arrival to the first token",
        TIME_TO_FIRST_TOKEN_BUCKETS,
    ),
    "gen_ai.server.time_per_output_token": (
        "Seconds per output token after the first",
        TIME_PER_OUTPUT_TOKEN_BUCKETS,
    ),
}
"""Description and bucket boundaries in seconds, by name."""


def make_meter_provider(endpoint: str, service: str) -> MeterProvider:
    """The provider of metrics; `shutdown` sends the last values and blocks."""
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource

    exporter = OTLPMetricExporter(endpoint=endpoint, timeout=EXPORT_TIMEOUT_SECONDS)
    reader = PeriodicExportingMetricReader(exporter, EXPORT_INTERVAL_SECONDS * 1000)
    resource = Resource.create({SERVICE_NAME: service})
    return MeterProvider([reader], resource, shutdown_on_exit=False)


def metrics_middleware(provider: MeterProvider, model: str) -> Middleware:
    """A middleware that observes the sequences of every request. `model`: the name it is given."""
    meter = provider.get_meter("tgi-laps")
    whole, first_token, per_token = (
        meter.create_histogram(name, "s", help, explicit_bucket_boundaries_advisory=buckets)
        for name, (help, buckets) in HISTOGRAMS.items()
    )

    def observe(record: LiveRequest) -> None:
        attributes, seconds = common_attributes(record, model), durations(record, monotonic())
        whole.record(seconds.request, attributes)
        if record.finish_reason is None:
            return  # the other two are of successful responses
        if seconds.time_to_first_token is not None:
            first_token.record(seconds.time_to_first_token, attributes)
        if seconds.time_per_output_token is not None:
            per_token.record(seconds.time_per_output_token, attributes)

    @web.middleware
    async def observed(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        finally:
            for record in request.get(RECORDS, ()):
                observe(record)

    return observed
