"""Spans and metrics carry the names of OpenTelemetry's gen_ai conventions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as wire
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

from router.config import ServerConfig
from router.errors import Cancelled
from router.http.gen_ai import Durations, durations, error_type, span_attributes, span_name
from router.http.otlp_metrics import HISTOGRAMS, make_meter_provider, metrics_middleware
from router.requests.request import Request
from shard.wire.protocol import Sampling
from tests.support.otlp import Collector, collecting
from tests.support.serving import HELLO, ScriptedRecord, serving


def record(**changes: Any) -> Any:
    request = Request("a", Sampling(temperature=0.5, seed=7, top_p=0.9), stop=("x",), route=1)
    ended = ScriptedRecord(request, (), None, finish_reason="eos_token", tokens=list(HELLO))
    return replace(ended, **changes)


def test_a_sequence_has_the_attributes_of_an_inference_span() -> None:
    assert span_name(record(), "small") == "chat small"
    assert span_attributes(record(), "small") == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "tgi-laps",
        "gen_ai.request.model": "small",
        "gen_ai.response.model": "small",
        "gen_ai.request.stream": False,
        "gen_ai.request.max_tokens": 20,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": ("x",),
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": len(HELLO),
        "gen_ai.usage.cache_read.input_tokens": 2,
    }


def test_every_name_is_one_of_the_conventions() -> None:
    known = {value for value in vars(gen_ai_attributes).values() if isinstance(value, str)}
    streamed = record(request=replace(record().request, stream=True))
    assert "gen_ai.response.time_to_first_chunk" in span_attributes(streamed, "small")
    assert set(span_attributes(streamed, "small")) <= known
    assert set(HISTOGRAMS) <= {v for v in vars(gen_ai_metrics).values() if isinstance(v, str)}


def test_a_sequence_without_a_complete_answer_has_an_error_type() -> None:
    assert error_type(record()) is None
    assert error_type(record(finish_reason=None)) == "cancelled"
    failed = record(finish_reason=None, error=Cancelled())
    assert span_attributes(failed, "small")["error.type"] == Cancelled.error_type
    assert span_attributes(failed, "small")["gen_ai.response.finish_reasons"] == ["error"]


def test_durations_count_only_what_there_was() -> None:
    per_token = 1.25 / (len(HELLO) - 1)
    assert durations(record(), 99.0) == Durations(2.0, 0.75, per_token)
    assert durations(record(tokens=[HELLO[0]]), 99.0).time_per_output_token is None
    live = record(finish_reason=None, tokens=[])
    assert durations(live, 11.0) == Durations(1.0, None, None)


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    """A real one, and where it listens."""
    with collecting(
        wire.add_MetricsServiceServicer_to_server, service.ExportMetricsServiceResponse
    ) as c:
        yield c


async def test_a_collector_gets_the_three_histograms_of_a_model_server(
    collector: tuple[Collector, str],
) -> None:
    servicer, endpoint = collector
    provider = make_meter_provider(endpoint, "a-name")
    async with serving(middlewares=[metrics_middleware(provider, "small")]) as server:
        assert (await server.post("/generate", {"inputs": "a"})).status == 200
        assert (await server.post("/nowhere", {})).status == 404
    provider.shutdown()
    [resource] = servicer.received.get(timeout=30).resource_metrics
    metrics = {metric.name: metric for metric in resource.scope_metrics[0].metrics}
    assert set(metrics) == set(HISTOGRAMS)
    sums = {name: metric.histogram.data_points[0].sum for name, metric in metrics.items()}
    assert sums == {
        "gen_ai.server.request.duration": 2.0,
        "gen_ai.server.time_to_first_token": 0.75,
        "gen_ai.server.time_per_output_token": 0.625,
    }
    [point] = metrics["gen_ai.server.request.duration"].histogram.data_points
    assert (point.count, metrics["gen_ai.server.request.duration"].unit) == (1, "s")
    assert point.explicit_bounds[:3] == [0.01, 0.02, 0.04]
    assert {item.key: item.value.string_value for item in point.attributes} == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "tgi-laps",
        "gen_ai.request.model": "small",
        "gen_ai.response.model": "small",
    }


def test_metrics_without_an_endpoint_are_refused() -> None:
    with pytest.raises(ValueError, match="`otlp_metrics` needs `otlp_endpoint`"):
        ServerConfig(otlp_metrics=True).check()
