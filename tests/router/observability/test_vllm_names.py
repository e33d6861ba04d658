"""The metrics under vLLM's names, read as Prometheus reads them."""

from __future__ import annotations

import re
from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from router.observability.metrics import Metrics
from router.requests.request import Request
from router.scheduler.api import SchedulerStatus
from shard.wire.protocol import Sampling
from tests.support.paths import ROOT
from tests.support.serving import BOUNDS, CAPACITY, HELLO, ScriptedRecord

DRAFTING = replace(CAPACITY, speculate=3)
MODEL = 'a "model"'
TYPES = {
    "vllm:cache_config_info": "gauge",
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:prompt_tokens": "counter",
    "vllm:generation_tokens": "counter",
    "vllm:num_preemptions": "counter",
    "vllm:request_success": "counter",
    "vllm:time_to_first_token_seconds": "histogram",
    "vllm:inter_token_latency_seconds": "histogram",
    "vllm:e2e_request_latency_seconds": "histogram",
    "vllm:spec_decode_num_drafts": "counter",
    "vllm:spec_decode_num_draft_tokens": "counter",
    "vllm:spec_decode_num_accepted_tokens": "counter",
    "vllm:spec_decode_num_accepted_tokens_per_pos": "counter",
}


def busy_metrics(names: str) -> Metrics:
    """Metrics of a server that has served one request, refused one and lost one."""
    metrics = Metrics(BOUNDS, DRAFTING, names=names, model_name=MODEL)
    record = ScriptedRecord(
        Request("a", Sampling()), (), None, tokens=list(HELLO), finish_reason="stop_sequence"
    )
    metrics.request_ended(record, None)  # type: ignore[arg-type]
    metrics.request_ended(None, "overloaded")
    metrics.request_ended(None, "dropped")
    metrics.first_tokens_emitted(prompt=3, tokens=1)
    metrics.tokens_emitted(4, 2.0)
    metrics.tokens_drafted(3, 1)
    metrics.tokens_drafted(2, 2)
    metrics.update_gauges(
        SchedulerStatus(
            waiting=(1, 2),
            running=3,
            perceptible=3,
            free_pages=4,
            preemptions={"keep": 5, "swap": 2, "recompute": 1},
        )
    )
    return metrics


def samples(metrics: Metrics) -> list[Sample]:
    families = text_string_to_metric_families(metrics.render().decode())
    return [sample for family in families for sample in family.samples]


def value(metrics: Metrics, name: str, **labels: str) -> float:
    wanted = {"model_name": MODEL, "engine": "0", **labels}
    [found] = [each for each in samples(metrics) if (each.name, each.labels) == (name, wanted)]
    return found.value


def test_names_and_types_are_vllms() -> None:
    families = text_string_to_metric_families(busy_metrics("vllm").render().decode())
    assert {family.name: family.type for family in families} == TYPES


def test_without_drafts_there_are_no_metrics_about_them() -> None:
    text = Metrics(BOUNDS, CAPACITY, names="vllm").render().decode()
    assert "vllm:num_requests_running" in text
    assert "spec_decode" not in text


def test_values_are_those_of_our_metrics() -> None:
    metrics = busy_metrics("vllm")
    assert value(metrics, "vllm:num_requests_running") == 3
    assert value(metrics, "vllm:num_requests_waiting") == 3
    assert value(metrics, "vllm:kv_cache_usage_perc") == 0.6
    assert value(metrics, "vllm:prompt_tokens_total") == 3
    assert value(metrics, "vllm:generation_tokens_total") == 5
    assert value(metrics, "vllm:num_preemptions_total") == 3
    assert value(metrics, "vllm:spec_decode_num_drafts_total") == 2
    assert value(metrics, "vllm:spec_decode_num_draft_tokens_total") == 5
    assert value(metrics, "vllm:spec_decode_num_accepted_tokens_total") == 3


def test_accepted_tokens_are_counted_by_position() -> None:
    metrics, name = busy_metrics("vllm"), "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    assert [value(metrics, name, position=str(place)) for place in range(3)] == [2, 1, 0]


def test_requests_are_counted_by_vllms_finish_reasons() -> None:
    metrics, name = busy_metrics("vllm"), "vllm:request_success_total"
    reasons = ("stop", "length", "abort", "error")
    counts = {reason: value(metrics, name, finished_reason=reason) for reason in reasons}
    assert counts == {"stop": 1, "length": 0, "abort": 1, "error": 0}


def test_histograms_keep_their_observations() -> None:
    metrics = busy_metrics("vllm")
    assert value(metrics, "vllm:time_to_first_token_seconds_sum") == 0.75
    assert value(metrics, "vllm:e2e_request_latency_seconds_count") == 1
    assert value(metrics, "vllm:e2e_request_latency_seconds_bucket", le="+Inf") == 1
    assert value(metrics, "vllm:inter_token_latency_seconds_count") == 4


def test_the_cache_is_described_in_blocks() -> None:
    [info] = [each for each in samples(busy_metrics("vllm")) if "cache_config" in each.name]
    assert info.labels == {"block_size": "16", "num_gpu_blocks": "10", "engine": "0"}
    assert info.value == 1


def test_both_names_are_those_of_tgi_followed_by_those_of_vllm() -> None:
    texts = {names: busy_metrics(names).render() for names in ("tgi", "vllm", "both")}
    assert texts["both"] == texts["tgi"] + texts["vllm"]
    assert b"vllm:" not in texts["tgi"]
    assert b"tgi_" not in texts["vllm"]


def test_the_documentation_lists_every_name() -> None:
    page = (ROOT / "docs" / "operating.md").read_text()
    named = set(re.findall(r"^\| `(vllm:\w+)`", page, re.MULTILINE))
    assert {name.removesuffix("_total") for name in named} == set(TYPES)
