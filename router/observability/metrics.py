"""The Prometheus metrics of `/metrics`: TGI's names verbatim, plus a few others with `tgi_`.

Callers report events; names, labels and buckets are declared in this file only. Every series whose
labels are known exists from the start, at zero. The text is rendered here because prometheus_client
renames counters to `*_total` and adds `*_created`, which would leave the panels of TGI's Grafana
dashboard empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from router.observability.scheduler_status import perceptible_share
from router.requests.record import LiveRequest
from router.requests.request import ResolvedLimits
from router.requests.timing import timing
from router.scheduler.api import DeviceCapacity, SchedulerStatus

DURATION_BUCKETS = tuple(0.0001 * 1.5**k for k in range(1, 36))
METHODS = ("prefill", "decode")
SOURCES = ("model", "ngram")

Labels = Mapping[str, Sequence[str]]

_COUNTERS: dict[str, tuple[str, Labels]] = {
    "tgi_request_count": ("Requests that reached validation", {}),
    "tgi_request_success": ("Requests that completed successfully", {}),
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

_GAUGES = {
    "tgi_queue_size": "Requests that wait for a place in the batch",
    "tgi_batch_current_size": "Requests in the batch",
    "tgi_batch_current_max_tokens": "Capacity of the KV cache pages in use, in tokens",
    "tgi_batch_max_total_tokens": "Capacity of the KV cache, in tokens",
    "tgi_requests_running": "Requests in the batch",
    "tgi_kv_cache_usage": "Fraction of the KV cache in use, 0 to 1",
    "tgi_perceptible_ratio": "Fraction of live requests ranked by their estimated remaining time",
    "tgi_estimate_error_ratio": "Mean relative error of recent estimates of the service time",
    "tgi_acceptance_ratio": "Fraction of recent draft tokens that were accepted",
    "tgi_permits_held": "Permits in use, of --max-concurrent-requests",
    "tgi_connections": "Open HTTP connections",
    "tgi_shards_ready": "1 if the shards serve, 0 while they are started again",
}

_NOT_OBSERVED = "Part of TGI's dashboards; never observed here"
_DURATIONS: dict[str, tuple[str, Labels]] = {
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


class Metrics:
    """The metrics of one server, in a registry of their own. Not thread-safe."""

    def __init__(
        self, limits: ResolvedLimits, capacity: DeviceCapacity, source: str = "model"
    ) -> None:
        """`source` is the kind of drafter, `model` or `ngram`."""
        self.drafter = source if capacity.speculate else None
        """The kind of drafter; None if nothing is drafted."""
        self._capacity = capacity
        self._source = source
        self._registry = registry = CollectorRegistry()
        self._counters = {name: _counter(registry, name, *row) for name, row in _COUNTERS.items()}
        self._durations = {
            name: _duration_histogram(registry, name, *row) for name, row in _DURATIONS.items()
        }
        self._gauges = {
            name: Gauge(name, help, registry=registry) for name, help in _GAUGES.items()
        }
        self._sizes = _size_histograms(registry, limits)
        self._queue_depth = Gauge(
            "tgi_queue_depth",
            "Requests that wait, by queue level",
            ["level"],
            registry=registry,
        )
        self._skipped = Summary(
            "tgi_request_skipped_tokens",
            "Draft tokens accepted per request and step",
            registry=registry,
        )
        self._preempted: dict[str, int] = {}
        self._prefetched = self._refused = 0
        self._gauges["tgi_batch_max_total_tokens"].set(capacity.pages * capacity.page_size)
        self._gauges["tgi_shards_ready"].set(1)

    def request_started(self) -> None:
        """Count a request whose body has the right types."""
        self._counters["tgi_request_count"].inc()

    def request_ended(self, record: LiveRequest | None, err: str | None) -> None:
        """Count the end of a request.

        `err` is a label of `tgi_request_failure`, or None for a success. `record` is None for a
        request that never reached the queue.
        """
        if record is not None:
            self._observe_request(record)
        if err is not None:
            self._counters["tgi_request_failure"].labels(err).inc()
        elif record is not None:
            self._observe_success(record)

    def failures(self) -> dict[str, int]:
        """The number of failed requests, by the labels of `tgi_request_failure`."""
        totals = _totals(self._counters["tgi_request_failure"])
        return {sample.labels["err"]: int(sample.value) for sample in totals}

    def restarts(self) -> int:
        """The number of restarts of the shards after a failure."""
        return int(sum(sample.value for sample in _totals(self._counters["tgi_shard_restarts"])))

    def step_completed(
        self, method: str, rows: int, seconds: float, *, mixed: bool = False
    ) -> None:
        """Observe a step over `rows` requests that took `seconds` of device time.

        `mixed`: prompts joined requests that decode, which TGI calls a concat. Such a step has the
        method `prefill`.
        """
        if mixed:
            self._counters["tgi_batch_concat"].labels("chunking").inc()
        self._counters["tgi_batch_inference_count"].labels(method).inc()
        self._counters["tgi_batch_inference_success"].labels(method).inc()
        self._durations["tgi_batch_inference_duration"].labels(method).observe(seconds)
        self._durations["tgi_batch_forward_duration"].labels(method).observe(seconds)
        if method == "prefill":
            self._sizes["tgi_batch_next_size"].observe(rows)

    def step_detokenized(self, method: str, seconds: float) -> None:
        """Observe the `seconds` that it took to turn the tokens of a step into text."""
        self._durations["tgi_batch_decode_duration"].labels(method).observe(seconds)

    def step_aborted(self, method: str) -> None:
        """Count a step that was lost with the shards."""
        self._counters["tgi_batch_inference_count"].labels(method).inc()
        self._counters["tgi_batch_inference_failure"].labels(method).inc()

    def shards_failed(self) -> None:
        """Note that no shards serve."""
        self._gauges["tgi_shards_ready"].set(0)

    def shards_restarted(self) -> None:
        """Count a start of the shards after a failure; they serve now."""
        self._counters["tgi_shard_restarts"].inc()
        self._gauges["tgi_shards_ready"].set(1)

    def tokens_emitted(self, tokens: int, seconds: float) -> None:
        """Observe `tokens` that a request got together, `seconds` after its previous ones."""
        for _ in range(tokens):
            self._durations["tgi_request_inter_token_duration"].observe(seconds / tokens)

    def tokens_drafted(self, drafted: int, accepted: int) -> None:
        """Count the draft tokens of one request in one step."""
        self._counters["tgi_speculative_drafted_tokens"].labels(self._source).inc(drafted)
        self._counters["tgi_speculative_accepted_tokens"].labels(self._source).inc(accepted)
        self._skipped.observe(accepted)

    def update_gauges(self, status: SchedulerStatus) -> None:
        """Set the gauges to the scheduler's status; called before each `render`."""
        used = self._capacity.pages - status.free_pages
        self._gauges["tgi_queue_size"].set(sum(status.waiting))
        self._gauges["tgi_batch_current_size"].set(status.running)
        self._gauges["tgi_requests_running"].set(status.running)
        self._gauges["tgi_batch_current_max_tokens"].set(used * self._capacity.page_size)
        self._gauges["tgi_kv_cache_usage"].set(used / self._capacity.pages)
        self._gauges["tgi_perceptible_ratio"].set(perceptible_share(status))
        self._gauges["tgi_estimate_error_ratio"].set(status.estimate_error)
        self._gauges["tgi_acceptance_ratio"].set(status.acceptance_rate)
        for level, waiting in enumerate(status.waiting):
            self._queue_depth.labels(str(level)).set(waiting)
        for action, count in status.preemptions.items():
            new = count - self._preempted.get(action, 0)
            self._counters["tgi_preemptions"].labels(action).inc(new)
        self._preempted = dict(status.preemptions)
        self._counters["tgi_preemptions_prefetched"].inc(status.prefetched - self._prefetched)
        self._prefetched = status.prefetched

    def update_admission(self, permits: int, connections: int, refused: int) -> None:
        """Set the permits held, the open connections, and those refused since the start."""
        self._gauges["tgi_permits_held"].set(permits)
        self._gauges["tgi_connections"].set(connections)
        self._counters["tgi_connections_refused"].inc(refused - self._refused)
        self._refused = refused

    def render(self) -> bytes:
        """Render all metrics in Prometheus' text format 0.0.4, UTF-8."""
        return "".join(chain.from_iterable(map(_lines, self._registry.collect()))).encode()

    def _observe_request(self, record: LiveRequest) -> None:
        self._durations["tgi_request_validation_duration"].observe(record.queued - record.arrived)
        self._sizes["tgi_request_input_length"].observe(len(record.prompt))
        self._sizes["tgi_request_max_new_tokens"].observe(record.max_new)

    def _observe_success(self, record: LiveRequest) -> None:
        self._counters["tgi_request_success"].inc()
        self._sizes["tgi_request_generated_tokens"].observe(len(record.tokens))
        times = timing(record)
        for name, seconds in (
            ("tgi_request_duration", times.total),
            ("tgi_request_queue_duration", times.queue),
            ("tgi_request_inference_duration", times.inference),
            ("tgi_request_mean_time_per_token_duration", times.per_token),
            ("tgi_request_ttft_duration", record.first_token - record.arrived),
        ):
            self._durations[name].observe(seconds)


def _counter(registry: CollectorRegistry, name: str, help: str, labels: Labels) -> Counter:
    counter = Counter(name, help, tuple(labels), registry=registry)
    for values in labels.values():
        for value in values:
            counter.labels(value)
    return counter


def _totals(counter: Counter) -> Iterator[Sample]:
    samples = chain.from_iterable(metric.samples for metric in counter.collect())
    return (sample for sample in samples if sample.name.endswith("_total"))


def _duration_histogram(
    registry: CollectorRegistry, name: str, help: str, labels: Labels
) -> Histogram:
    histogram = Histogram(name, help, tuple(labels), buckets=DURATION_BUCKETS, registry=registry)
    for values in labels.values():
        for value in values:
            histogram.labels(value)
    return histogram


def _size_histograms(registry: CollectorRegistry, limits: ResolvedLimits) -> dict[str, Histogram]:
    rows = {
        "tgi_request_input_length": ("Prompt tokens per request", limits.max_input_tokens),
        "tgi_request_generated_tokens": ("Output tokens per request", limits.max_total_tokens),
        "tgi_request_max_new_tokens": ("`max_new_tokens` per request", limits.max_total_tokens),
    }
    histograms = {
        name: Histogram(name, help, buckets=_linear_buckets(maximum), registry=registry)
        for name, (help, maximum) in rows.items()
    }
    name, buckets = "tgi_batch_next_size", tuple(range(1, 1025))
    help = "Requests per step that prefills"
    return {**histograms, name: Histogram(name, help, buckets=buckets, registry=registry)}


def _linear_buckets(maximum: int) -> tuple[float, ...]:
    return tuple(maximum * i / 100 for i in range(1, 101))


def _lines(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.documentation}\n"
    yield f"# TYPE {metric.name} {metric.type}\n"
    for sample in metric.samples:
        if not sample.name.endswith("_created"):
            yield _line(sample, metric)


def _line(sample: Sample, metric: Metric) -> str:
    name = metric.name if metric.type == "counter" else sample.name
    labels = ",".join(f'{key}="{value}"' for key, value in sample.labels.items())
    return f"{name}{{{labels}}} {sample.value!r}\n" if labels else f"{name} {sample.value!r}\n"
