"""The metrics: their names, labels and buckets, and what each event changes."""

import re
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.observability.metrics import Metrics
from router.requests.request import Request
from router.scheduler.api import SchedulerStatus
from shard.wire.protocol import Sampling
from tests.support.serving import BOUNDS, CAPACITY, HELLO, ScriptedRecord, serving

COUNTERS = {
    "tgi_request_count",
    "tgi_request_success",
    "tgi_request_finished",
    "tgi_request_failure",
    "tgi_prompt_tokens",
    "tgi_output_tokens",
    "tgi_batch_inference_count",
    "tgi_batch_inference_success",
    "tgi_batch_inference_failure",
    "tgi_batch_concat",
    "tgi_speculative_drafted_tokens",
    "tgi_speculative_accepted_tokens",
    "tgi_speculative_position_drafted",
    "tgi_speculative_position_accepted",
    "tgi_preemptions",
    "tgi_preemptions_prefetched",
    "tgi_shard_restarts",
    "tgi_connections_refused",
}
GAUGES = {
    "tgi_shards_ready",
    "tgi_streams_paused",
    "tgi_permits_held",
    "tgi_connections",
    "tgi_queue_size",
    "tgi_batch_current_size",
    "tgi_batch_current_max_tokens",
    "tgi_batch_max_total_tokens",
    "tgi_requests_running",
    "tgi_queue_depth",
    "tgi_kv_cache_usage",
    "tgi_perceptible_ratio",
    "tgi_estimate_error_ratio",
    "tgi_acceptance_ratio",
    "tgi_estimated_wait_seconds",
    "tgi_estimated_work_seconds",
}
HISTOGRAMS = {
    "tgi_request_duration",
    "tgi_request_validation_duration",
    "tgi_request_queue_duration",
    "tgi_request_inference_duration",
    "tgi_request_mean_time_per_token_duration",
    "tgi_request_input_length",
    "tgi_request_generated_tokens",
    "tgi_request_max_new_tokens",
    "tgi_batch_next_size",
    "tgi_batch_inference_duration",
    "tgi_batch_forward_duration",
    "tgi_batch_decode_duration",
    "tgi_batch_filter_duration",
    "tgi_batch_concat_duration",
    "tgi_request_ttft_duration",
    "tgi_request_inter_token_duration",
}


DRAFTING = replace(CAPACITY, speculate=5)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(BOUNDS, DRAFTING)


def value(metrics: Metrics, series: str) -> float:
    match = re.search(rf"^{re.escape(series)} (\S+)$", metrics.render().decode(), re.MULTILINE)
    assert match, series
    return float(match[1])


async def test_the_metrics_route_answers_in_prometheus_text_format() -> None:
    async with serving() as server:
        response = await server.request("GET", "/metrics")
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert list(text_string_to_metric_families(response.body.decode()))


def test_every_name_exists_from_the_start(metrics: Metrics) -> None:
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", metrics.render().decode(), re.MULTILINE))
    summary = {"tgi_request_skipped_tokens": "summary"}
    assert kinds == summary | (
        dict.fromkeys(COUNTERS, "counter")
        | dict.fromkeys(GAUGES, "gauge")
        | dict.fromkeys(HISTOGRAMS, "histogram")
    )


def test_counters_keep_their_bare_names(metrics: Metrics) -> None:
    text = metrics.render().decode()
    assert not re.search(r"^(# \w+ )?\w+(_total|_created)\b", text, re.MULTILINE)


@pytest.mark.parametrize(
    "series",
    [
        "tgi_request_count",
        'tgi_request_failure{err="overloaded"}',
        'tgi_batch_inference_count{method="decode"}',
        'tgi_batch_inference_duration_bucket{method="prefill",le="+Inf"}',
        'tgi_batch_concat{reason="chunking"}',
        'tgi_batch_concat_duration_count{method="decode"}',
        'tgi_preemptions{action="swap"}',
        "tgi_request_skipped_tokens_sum",
        "tgi_request_skipped_tokens_count",
    ],
)
def test_series_with_known_labels_start_at_zero(metrics: Metrics, series: str) -> None:
    assert value(metrics, series) == 0.0


def bounds(metrics: Metrics, name: str) -> list[str]:
    return re.findall(rf'^{name}_bucket{{le="(.*)"}}', metrics.render().decode(), re.MULTILINE)


def test_the_buckets_are_tgis(metrics: Metrics) -> None:
    seconds = bounds(metrics, "tgi_request_duration")
    assert len(seconds) == 36
    assert float(seconds[0]) == pytest.approx(0.00015)
    assert float(seconds[34]) == pytest.approx(145.6, rel=1e-3)
    lengths = bounds(metrics, "tgi_request_input_length")
    assert (lengths[0], lengths[99]) == ("19.99", "1999.0")
    assert bounds(metrics, "tgi_request_generated_tokens")[99] == "2000.0"
    assert len(bounds(metrics, "tgi_batch_next_size")) == 1025


def record() -> ScriptedRecord:
    request = Request("a", Sampling())
    tokens, reason = list(HELLO), "eos_token"
    return ScriptedRecord(request, (), reason, tokens=tokens, max_new=9, finish_reason=reason)


def test_a_successful_request_is_observed_with_its_durations(metrics: Metrics) -> None:
    metrics.request_started()
    metrics.request_ended(record(), None)  # type: ignore[arg-type]
    assert value(metrics, "tgi_request_count") == 1
    assert value(metrics, "tgi_request_success") == 1
    assert value(metrics, 'tgi_request_finished{reason="eos_token"}') == 1
    assert value(metrics, "tgi_request_duration_sum") == 2.0
    assert value(metrics, "tgi_request_validation_duration_sum") == 0.25
    assert value(metrics, "tgi_request_queue_duration_sum") == 0.25
    assert value(metrics, "tgi_request_inference_duration_sum") == 1.5
    assert value(metrics, "tgi_request_mean_time_per_token_duration_sum") == 0.5
    assert value(metrics, "tgi_request_ttft_duration_sum") == 0.75
    assert value(metrics, "tgi_request_input_length_sum") == 3
    assert value(metrics, "tgi_request_generated_tokens_sum") == 3
    assert value(metrics, "tgi_request_max_new_tokens_sum") == 9


def test_a_failed_request_is_counted_by_its_cause(metrics: Metrics) -> None:
    metrics.request_ended(None, "overloaded")
    metrics.request_ended(record(), "dropped")  # type: ignore[arg-type]
    assert value(metrics, 'tgi_request_failure{err="overloaded"}') == 1
    assert value(metrics, 'tgi_request_failure{err="dropped"}') == 1
    assert value(metrics, "tgi_request_success") == 0
    assert value(metrics, "tgi_request_duration_count") == 0
    assert value(metrics, "tgi_request_input_length_count") == 1


def test_steps_are_counted_by_method(metrics: Metrics) -> None:
    metrics.step_completed("prefill", 3, 0.5)
    metrics.step_completed("decode", 4, 0.25)
    metrics.step_aborted("decode")
    assert value(metrics, 'tgi_batch_inference_count{method="decode"}') == 2
    assert value(metrics, 'tgi_batch_inference_success{method="decode"}') == 1
    assert value(metrics, 'tgi_batch_inference_failure{method="decode"}') == 1
    assert value(metrics, 'tgi_batch_forward_duration_sum{method="prefill"}') == 0.5
    assert value(metrics, "tgi_batch_next_size_sum") == 3


def test_a_step_of_prompts_and_decodes_is_counted_as_tgis_concat(metrics: Metrics) -> None:
    metrics.step_completed("prefill", 2, 0.25, mixed=True)
    metrics.step_completed("prefill", 1, 0.25)
    assert value(metrics, 'tgi_batch_concat{reason="chunking"}') == 1
    metrics.step_detokenized("decode", 0.5)
    assert value(metrics, 'tgi_batch_decode_duration_sum{method="decode"}') == 0.5


def test_tokens_that_arrive_together_share_their_time(metrics: Metrics) -> None:
    metrics.tokens_emitted(4, 2.0)
    assert value(metrics, "tgi_request_inter_token_duration_count") == 4
    assert value(metrics, "tgi_request_inter_token_duration_sum") == 2.0


def test_speculation_is_counted(metrics: Metrics) -> None:
    metrics.tokens_drafted(5, 3)
    metrics.tokens_drafted(5, 0)
    assert value(metrics, 'tgi_speculative_drafted_tokens{source="model"}') == 10
    assert value(metrics, 'tgi_speculative_accepted_tokens{source="model"}') == 3
    assert value(metrics, "tgi_request_skipped_tokens_count") == 2
    assert value(metrics, "tgi_request_skipped_tokens_sum") == 3


def test_drafts_by_suffix_decoding_may_be_longer_than_the_drafters() -> None:
    metrics = Metrics(BOUNDS, replace(DRAFTING, suffix=16), "auto")
    metrics.tokens_drafted(16, 14, "suffix")
    assert value(metrics, 'tgi_speculative_position_accepted{position="13"}') == 1
    assert value(metrics, 'tgi_speculative_drafted_tokens{source="suffix"}') == 16


def test_tokens_that_a_grammar_forces_are_counted_as_their_own_source(metrics: Metrics) -> None:
    metrics.tokens_drafted(12, 12, "grammar")
    assert value(metrics, 'tgi_speculative_accepted_tokens{source="grammar"}') == 12
    assert value(metrics, 'tgi_speculative_accepted_tokens{source="model"}') == 0
    assert value(metrics, 'tgi_speculative_position_drafted{position="0"}') == 0
    assert value(metrics, "tgi_request_skipped_tokens_sum") == 12


def test_drafts_are_counted_by_position(metrics: Metrics) -> None:
    metrics.tokens_drafted(5, 3)
    metrics.tokens_drafted(2, 2)
    drafted, accepted = (
        [
            value(metrics, f'tgi_speculative_position_{what}{{position="{place}"}}')
            for place in range(5)
        ]
        for what in ("drafted", "accepted")
    )
    assert drafted == [2, 2, 1, 1, 1]
    assert accepted == [2, 2, 1, 0, 0]


def test_tokens_are_counted_as_they_arrive(metrics: Metrics) -> None:
    metrics.first_tokens_emitted(prompt=7, tokens=2)
    metrics.tokens_emitted(3, 1.0)
    assert value(metrics, "tgi_prompt_tokens") == 7
    assert value(metrics, "tgi_output_tokens") == 5


def test_prompt_lookup_is_counted_as_its_own_source() -> None:
    metrics = Metrics(BOUNDS, DRAFTING, "ngram")
    metrics.tokens_drafted(5, 3)
    assert value(metrics, 'tgi_speculative_drafted_tokens{source="ngram"}') == 5
    assert value(metrics, 'tgi_speculative_accepted_tokens{source="ngram"}') == 3
    assert value(metrics, 'tgi_speculative_drafted_tokens{source="model"}') == 0


def test_the_gauges_show_the_schedulers_status(metrics: Metrics) -> None:
    status = SchedulerStatus(
        (1, 2), 3, perceptible=3, free_pages=4, preemptions={"keep": 2}, acceptance_rate=0.75
    )
    status = replace(status, estimate_error=0.125, prefetched=3, work=2.5, wait=1.5)
    metrics.update_gauges(status)
    metrics.update_gauges(status)
    assert value(metrics, "tgi_queue_size") == 3
    assert value(metrics, 'tgi_queue_depth{level="1"}') == 2
    assert value(metrics, "tgi_batch_current_size") == 3
    assert value(metrics, "tgi_requests_running") == 3
    assert value(metrics, "tgi_kv_cache_usage") == 0.6
    assert value(metrics, "tgi_batch_current_max_tokens") == 96
    assert value(metrics, "tgi_batch_max_total_tokens") == 160
    assert value(metrics, 'tgi_preemptions{action="keep"}') == 2
    assert value(metrics, "tgi_preemptions_prefetched") == 3
    assert value(metrics, "tgi_perceptible_ratio") == 0.5
    assert value(metrics, "tgi_acceptance_ratio") == 0.75
    assert value(metrics, "tgi_estimate_error_ratio") == 0.125
    assert value(metrics, "tgi_estimated_work_seconds") == 2.5
    assert value(metrics, "tgi_estimated_wait_seconds") == 1.5
