"""What `/metrics` shows: TGI's names verbatim and ours beside them, in one registry of its own.

Others report facts through a few verbs; names, labels and buckets are here alone. Every series
whose labels are known exists from the start, at zero. The text is rendered here because
prometheus_client renames counters to `*_total` and adds `*_created`, which leaves the panels of
TGI's Grafana board empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from router.observability.scheduler_status import perceptible_share
from router.requests.record import LiveRequest, timing
from router.requests.request import ResolvedLimits
from router.scheduler.api import DeviceCapacity, SchedulerStatus

DURATION_BUCKETS = tuple(0.0001 * 1.5**k for k in range(1, 36))
METHODS = ("prefill", "decode")

Labels = Mapping[str, Sequence[str]]

_COUNTERS: dict[str, tuple[str, Labels]] = {
    "tgi_request_count": ("Requests that reached validation", {}),
    "tgi_request_success": ("Requests that ended well", {}),
    "tgi_request_failure": (
        "Requests that ended badly",
        {
            "err": (
                *("validation", "overloaded", "generation", "incomplete", "dropped"),
                *("template", "cancelled", "unavailable"),
            )
        },
    ),
    "tgi_batch_inference_count": ("Steps sent", {"method": METHODS}),
    "tgi_batch_inference_success": ("Steps done", {"method": METHODS}),
    "tgi_batch_inference_failure": ("Steps lost", {"method": METHODS}),
    "tgi_batch_concat": (
        "Batches joined",
        {"reason": ("backpressure", "wait_exceeded", "chunking")},
    ),
    "tgi_speculative_drafted_tokens": ("Tokens proposed", {"source": ("model", "ngram")}),
    "tgi_speculative_accepted_tokens": ("Proposed tokens kept", {"source": ("model", "ngram")}),
    "tgi_preemptions": ("Requests paused", {"action": ("keep", "swap", "recompute")}),
    "tgi_preemptions_prefetched": ("Swapped requests brought back while others ran", {}),
}

_GAUGES = {
    "tgi_queue_size": "Requests that wait for a place in a batch",
    "tgi_batch_current_size": "Requests in the batch",
    "tgi_batch_current_max_tokens": "Tokens that the batch's pages hold",
    "tgi_batch_max_total_tokens": "Tokens that the KV cache holds",
    "tgi_requests_running": "Requests in the batch",
    "tgi_kv_cache_usage": "Part of the KV cache in use, 0 to 1",
    "tgi_perceptible_ratio": "Share of live requests that are ranked by their remaining time",
    "tgi_estimate_error_ratio": "Mean relative error of recent estimates of execution time",
    "tgi_acceptance_ratio": "Share of recent draft tokens that were kept",
}

_DURATIONS: dict[str, tuple[str, Labels]] = {
    "tgi_request_duration": ("Arrival to the last token", {}),
    "tgi_request_validation_duration": ("Arrival to the queue", {}),
    "tgi_request_queue_duration": ("Queue to the first Step", {}),
    "tgi_request_inference_duration": ("First Step to the last token", {}),
    "tgi_request_mean_time_per_token_duration": ("Inference by token", {}),
    "tgi_request_ttft_duration": ("Arrival to the first token", {}),
    "tgi_request_inter_token_duration": ("Between tokens of one request", {}),
    "tgi_batch_inference_duration": ("A Step", {"method": METHODS}),
    "tgi_batch_forward_duration": ("A Step on the device", {"method": METHODS}),
    "tgi_batch_decode_duration": ("A Step's tokens to text", {"method": METHODS}),
    "tgi_batch_filter_duration": ("A batch's filtering", {"method": METHODS}),
    "tgi_batch_concat_duration": ("A batch's joining", {"method": ("decode",)}),
}


class Metrics:
    """One server's metrics. Every method is called from the event loop."""

    def __init__(
        self, bounds: ResolvedLimits, capacity: DeviceCapacity, ranks: int, source: str = "model"
    ) -> None:
        """`source`: who drafts, `model` or `ngram`."""
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
        self._sizes = _size_histograms(registry, bounds)
        self._queue_depth = Gauge(
            "tgi_queue_depth", "Waiting by level", ["level"], registry=registry
        )
        self._skipped = Summary(
            "tgi_request_skipped_tokens",
            "Draft tokens kept, by request and Step",
            registry=registry,
        )
        restarts = {"rank": tuple(map(str, range(ranks)))}
        self._restarts = _counter(registry, "tgi_shard_restarts", "Restarts of a shard", restarts)
        self._preempted: dict[str, int] = {}
        self._prefetched = 0
        self._gauges["tgi_batch_max_total_tokens"].set(capacity.pages * capacity.page_size)

    def request_started(self) -> None:
        """A request's body has its right types."""
        self._counters["tgi_request_count"].inc()

    def request_ended(self, record: LiveRequest | None, err: str | None) -> None:
        """It ended, well if `err` is None; `record` is None where it never reached the queue."""
        if record is not None:
            self._observe_request(record)
        if err is not None:
            self._counters["tgi_request_failure"].labels(err).inc()
        elif record is not None:
            self._observe_success(record)

    def step_completed(
        self, method: str, rows: int, seconds: float, *, mixed: bool = False
    ) -> None:
        """A Step over `rows` requests took `seconds` of the device; a mixed one is a prefill.

        `joined`: it had prompts beside rows that decode, which TGI calls a concat.
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
        """The tokens of a Step were text after `seconds`."""
        self._durations["tgi_batch_decode_duration"].labels(method).observe(seconds)

    def step_aborted(self, method: str) -> None:
        """A Step's result will never come."""
        self._counters["tgi_batch_inference_count"].labels(method).inc()
        self._counters["tgi_batch_inference_failure"].labels(method).inc()

    def tokens_emitted(self, tokens: int, seconds: float) -> None:
        """One request got `tokens` at once, `seconds` after those before."""
        for _ in range(tokens):
            self._durations["tgi_request_inter_token_duration"].observe(seconds / tokens)

    def tokens_drafted(self, drafted: int, accepted: int) -> None:
        """One request's part of a Step."""
        self._counters["tgi_speculative_drafted_tokens"].labels(self._source).inc(drafted)
        self._counters["tgi_speculative_accepted_tokens"].labels(self._source).inc(accepted)
        self._skipped.observe(accepted)

    def shard_restarted(self, rank: int) -> None:
        """A rank came back."""
        self._restarts.labels(str(rank)).inc()

    def update_gauges(self, view: SchedulerStatus) -> None:
        """The present state, asked for before it is shown and not at every Step."""
        used = self._capacity.pages - view.free_pages
        self._gauges["tgi_queue_size"].set(sum(view.waiting))
        self._gauges["tgi_batch_current_size"].set(view.running)
        self._gauges["tgi_requests_running"].set(view.running)
        self._gauges["tgi_batch_current_max_tokens"].set(used * self._capacity.page_size)
        self._gauges["tgi_kv_cache_usage"].set(used / self._capacity.pages)
        self._gauges["tgi_perceptible_ratio"].set(perceptible_share(view))
        self._gauges["tgi_estimate_error_ratio"].set(view.estimate_error)
        self._gauges["tgi_acceptance_ratio"].set(view.acceptance_rate)
        for level, waiting in enumerate(view.waiting):
            self._queue_depth.labels(str(level)).set(waiting)
        for action, count in view.preemptions.items():
            new = count - self._preempted.get(action, 0)
            self._counters["tgi_preemptions"].labels(action).inc(new)
        self._preempted = dict(view.preemptions)
        self._counters["tgi_preemptions_prefetched"].inc(view.prefetched - self._prefetched)
        self._prefetched = view.prefetched

    def render(self) -> bytes:
        """Prometheus' text format, version 0.0.4, UTF-8."""
        return "".join(chain.from_iterable(map(_lines, self._registry.collect()))).encode()

    def _observe_request(self, record: LiveRequest) -> None:
        self._durations["tgi_request_validation_duration"].observe(record.queued - record.arrived)
        self._sizes["tgi_request_input_length"].observe(len(record.prompt))
        self._sizes["tgi_request_max_new_tokens"].observe(record.max_new)

    def _observe_success(self, record: LiveRequest) -> None:
        self._counters["tgi_request_success"].inc()
        self._sizes["tgi_request_generated_tokens"].observe(len(record.tokens))
        spent = timing(record)
        for name, seconds in (
            ("tgi_request_duration", spent.total),
            ("tgi_request_queue_duration", spent.queue),
            ("tgi_request_inference_duration", spent.inference),
            ("tgi_request_mean_time_per_token_duration", spent.per_token),
            ("tgi_request_ttft_duration", record.first_token - record.arrived),
        ):
            self._durations[name].observe(seconds)


def _counter(registry: CollectorRegistry, name: str, help: str, labels: Labels) -> Counter:
    counter = Counter(name, help, tuple(labels), registry=registry)
    for values in labels.values():
        for value in values:
            counter.labels(value)
    return counter


def _duration_histogram(
    registry: CollectorRegistry, name: str, help: str, labels: Labels
) -> Histogram:
    histogram = Histogram(name, help, tuple(labels), buckets=DURATION_BUCKETS, registry=registry)
    for values in labels.values():
        for value in values:
            histogram.labels(value)
    return histogram


def _size_histograms(registry: CollectorRegistry, bounds: ResolvedLimits) -> dict[str, Histogram]:
    buckets = {
        "tgi_request_input_length": _linear_buckets(bounds.max_input_tokens),
        "tgi_request_generated_tokens": _linear_buckets(bounds.max_total_tokens),
        "tgi_request_max_new_tokens": _linear_buckets(bounds.max_total_tokens),
        "tgi_batch_next_size": tuple(range(1, 1025)),
    }
    return {
        name: Histogram(name, "Tokens or requests", buckets=row, registry=registry)
        for name, row in buckets.items()
    }


def _linear_buckets(largest: int) -> tuple[float, ...]:
    return tuple(largest * i / 100 for i in range(1, 101))


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
