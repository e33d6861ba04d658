"""A collector gets a span for each request, in the caller's trace."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as wire

from router.config import ServerConfig
from router.http.tracing import make_tracer_provider, phases, tracing_middleware
from router.requests.request import Request
from shard.wire.protocol import Sampling
from tests.support.otlp import Collector, collecting
from tests.support.serving import ScriptedRecord, serving

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    """A real one, and where it listens."""
    with collecting(
        wire.add_TraceServiceServicer_to_server, service.ExportTraceServiceResponse
    ) as c:
        yield c


async def test_a_request_is_a_span_of_its_callers_trace(collector: tuple[Collector, str]) -> None:
    servicer, endpoint = collector
    traces = make_tracer_provider(endpoint, "a-name")
    async with serving(middlewares=[tracing_middleware(traces, "small")]) as server:
        head = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
        assert (await server.post("/generate_stream", {"inputs": "a"}, headers=head)).status == 200
        assert (await server.post("/nowhere", {})).status == 404
    traces.shutdown()
    [resource] = servicer.received.get(timeout=30).resource_spans
    named = {item.key: item.value.string_value for item in resource.resource.attributes}
    assert named["service.name"] == "a-name"
    spans = {span.name: span for span in resource.scope_spans[0].spans}
    first, second = spans["POST /generate_stream"], spans["POST /nowhere"]
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT)
    told = {item.key: item.value for item in first.attributes}
    assert told["http.response.status_code"].int_value == 200
    assert told["tgi.request_id"].string_value == "mine"
    assert second.trace_id.hex() != TRACE
    assert not second.parent_span_id
    sequence = spans["text_completion small"]
    assert sequence.parent_span_id == first.span_id
    assert sequence.end_time_unix_nano - sequence.start_time_unix_nano == 2_000_000_000
    told = {item.key: item.value for item in sequence.attributes}
    assert told["gen_ai.usage.output_tokens"].int_value == 3
    assert told["gen_ai.response.id"].string_value == "mine"
    parts = [
        span for span in resource.scope_spans[0].spans if span.parent_span_id == sequence.span_id
    ]
    assert [part.name for part in parts] == ["validation", "queue", "prefill", "decode"]
    lasted = [part.end_time_unix_nano - part.start_time_unix_nano for part in parts]
    assert lasted == [250_000_000, 250_000_000, 250_000_000, 1_250_000_000]
    told = {item.key: item.value for item in parts[-1].attributes}
    assert told["tgi.generated_tokens"].int_value == 3
    assert told["tgi.device_seconds"].double_value == 0.625


async def test_a_span_that_is_not_kept_is_not_told(collector: tuple[Collector, str]) -> None:
    servicer, endpoint = collector
    traces = make_tracer_provider(endpoint, "a-name")
    async with serving(middlewares=[tracing_middleware(traces, "small")]) as server:
        head = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
        assert (await server.post("/generate", {"inputs": "a"}, headers=head)).status == 200
    traces.shutdown()
    assert servicer.received.empty()


def test_a_sequence_that_did_not_come_far_has_the_phases_that_it_reached() -> None:
    record = ScriptedRecord(Request("a", Sampling()), (), None, steps=0)
    assert [(phase.name, phase.begin, phase.end) for phase in phases(record, 11.0)] == [  # type: ignore[arg-type]
        ("validation", 10.0, 10.25),
        ("queue", 10.25, 11.0),
    ]


def test_without_the_extra_the_flag_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    ServerConfig(otlp_endpoint="http://localhost:4317").check()
    monkeypatch.setattr("router.config.find_spec", lambda name: None)
    ServerConfig().check()
    with pytest.raises(ValueError, match="`otlp_endpoint` needs the extra `traces`"):
        ServerConfig(otlp_endpoint="http://localhost:4317").check()
