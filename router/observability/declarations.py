"""Names, help texts, labels and buckets of the metrics: TGI's verbatim, others with `tgi_`.

Nothing is counted here. A mapping from names to a help text and the values of the label, if the
metric has one, so that every series exists from the start, at zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

DURATION_BUCKETS = tuple(0.0001 * 1.5**k for k in range(1, 36))
METHODS = ("prefill", "decode")
SOURCES = ("model", "ngram", "suffix", "grammar")

Labels = Mapping[str, Sequence[str]]

COUNTERS: dict[str, tuple[str, Labels]] = {
    "tgi_request_count": ("Requests that reached validation", {}),
    "tgi_request_success": ("Requests that completed successfully", {}),
    "tgi_request_finished": (
        "Requests that completed successfully, by finish reason",
        {"reason": ("length", "eos_token", "stop_sequence")},
    ),
    "tgi_request_failure": (
        "Requests that failed, by cause",
        {
            "err": (
                "validation",
                "overloaded",
                "generation",
                "incomplete",
                "dropped",
                "template",
                "cancelled",
                "unavailable",
                "quarantined",
            )
        },
    ),
    "tgi_prompt_tokens": ("Prompt tokens of the requests that got a token", {}),
    "tgi_output_tokens": ("Output tokens", {}),
    "tgi_batch_inference_count": ("Steps sent to the shards", {"method": METHODS}),
    "tgi_batch_inference_success": ("Steps completed", {"method": METHODS}),
    "tgi_batch_inference_failure": ("Steps lost with the shards", {"method": METHODS}),
    "tgi_batch_concat": (
        "Steps in which prompts joined requests that decode",
        {"reason": ("backpressure", "wait_exceeded", "chunking")},
    ),
    "tgi_speculative_drafted_tokens": ("Draft tokens proposed", {"source": SOURCES}),
    "tgi_speculative_accepted_tokens": ("Draft tokens accepted", {"source": SOURCES}),
    "tgi_preemptions": ("Preempted requests", {"action": ("keep", "swap", "recompute")}),
    "tgi_preemptions_prefetched": ("Swapped requests copied back while others ran", {}),
    "tgi_connections_refused": ("Connections above the limit, which were closed", {}),
    "tgi_shard_restarts": ("Times that the shards were started again after a failure", {}),
}

GAUGES = {
    "tgi_queue_size": "Requests that wait for a place in the batch",
    "tgi_batch_current_size": "Requests in the batch",
    "tgi_batch_current_max_tokens": "Capacity of the KV cache pages in use, in tokens",
    "tgi_batch_max_total_tokens": "Capacity of the KV cache, in tokens",
    "tgi_requests_running": "Requests in the batch",
    "tgi_kv_cache_usage": "Fraction of the KV cache in use, 0 to 1",
    "tgi_perceptible_ratio": "Fraction of live requests ranked by their estimated remaining time",
    "tgi_estimate_error_ratio": "Mean relative error of recent estimates of the service time",
    "tgi_acceptance_ratio": "Fraction of recent draft tokens that were accepted",
    "tgi_estimated_work_seconds": "Estimated device time that the live requests still need",
    "tgi_estimated_wait_seconds": "Estimated time until one more request would be served",
    "tgi_streams_paused": "Streams that are paused until their clients have read more",
    "tgi_permits_held": "Permits in use, of --max-concurrent-requests",
    "tgi_connections": "Open HTTP connections",
    "tgi_shards_ready": "1 if the shards serve, 0 while they are started again",
}

_NOT_OBSERVED = "Part of TGI's dashboards; never observed here"
DURATIONS: dict[str, tuple[str, Labels]] = {
    "tgi_request_duration": ("Seconds from arrival to the last token", {}),
    "tgi_request_validation_duration": ("Seconds from arrival to the queue", {}),
    "tgi_request_queue_duration": ("Seconds from the queue to the first step", {}),
    "tgi_request_inference_duration": ("Seconds from the first step to the last token", {}),
    "tgi_request_mean_time_per_token_duration": ("Seconds of inference per output token", {}),
    "tgi_request_ttft_duration": ("Seconds from arrival to the first token", {}),
    "tgi_request_inter_token_duration": ("Seconds between the tokens of a request", {}),
    "tgi_batch_inference_duration": ("Seconds per step", {"method": METHODS}),
    "tgi_batch_forward_duration": ("Seconds of device time per step", {"method": METHODS}),
    "tgi_batch_decode_duration": ("Seconds to detokenize a step", {"method": METHODS}),
    "tgi_batch_filter_duration": (_NOT_OBSERVED, {"method": METHODS}),
    "tgi_batch_concat_duration": (_NOT_OBSERVED, {"method": ("decode",)}),
}
