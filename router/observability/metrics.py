"""The Prometheus metrics of `/metrics`: what each event of the server changes.

Callers report events. Names, labels and buckets are declared in `declarations`; `exposition` writes
the text, and `vllm_names` the same values under vLLM's names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.samples import Sample

from router.observability import exposition, vllm_names
from router.observability.declarations import (
    COUNTERS,
    DURATION_BUCKETS,
    DURATIONS,
    GAUGES,
    Labels,
)
from router.observability.draft_positions import DraftPositions
from router.observability.scheduler_status import perceptible_share
from router.requests.record import LiveRequest
from router.requests.request import ResolvedLimits
from router.requests.timing import timing
from router.scheduler.api import DeviceCapacity, SchedulerStatus
from shard.wire.protocol import GRAMMAR


class Metrics:
    """The metrics of one server, in a registry of their own. Not thread-safe."""

    def __init__(
        self,
        limits: ResolvedLimits,
        capacity: DeviceCapacity,
        source: str = "model",
        names: str = "tgi",
        model_name: str = "",
    ) -> None:
        """`source` is the kind of drafter, `model`, `ngram`, `suffix` or `auto`.

        `names`: the names that `render` writes, `tgi`, `vllm` or `both`. `model_name`: a label of
        vLLM's metrics.
        """
        self.drafter = source if capacity.speculate else None
        """The kind of drafter; None if nothing is drafted."""
        self._capacity = capacity
        self._source = source
        self._names, self._model_name = names, model_name
        self._registry = registry = CollectorRegistry()
        self._counters = {
            name: Counter(name, help, tuple(labels), registry=registry)
            for name, (help, labels) in COUNTERS.items()
        }
        self._durations = {
            name: Histogram(name, help, tuple(labels), buckets=DURATION_BUCKETS, registry=registry)
            for name, (help, labels) in DURATIONS.items()
        }
        _create_series(self._counters, COUNTERS)
        _create_series(self._durations, DURATIONS)
        self._gauges = {name: Gauge(name, help, registry=registry) for name, help in GAUGES.items()}
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
        self._positions = DraftPositions(max(capacity.speculate, capacity.suffix))
        registry.register(self._positions)
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

    def first_tokens_emitted(self, prompt: int, tokens: int) -> None:
        """Count the first `tokens` of a request, whose `prompt` tokens are computed."""
        self._counters["tgi_prompt_tokens"].inc(prompt)
        self._counters["tgi_output_tokens"].inc(tokens)

    def tokens_emitted(self, tokens: int, seconds: float) -> None:
        """Observe `tokens` that a request got together, `seconds` after its previous ones."""
        self._counters["tgi_output_tokens"].inc(tokens)
        for _ in range(tokens):
            self._durations["tgi_request_inter_token_duration"].observe(seconds / tokens)

    def tokens_drafted(self, drafted: int, accepted: int, drafter: str = "") -> None:
        """Count the draft tokens of one request in one step; `drafter`: what drafted them.

        Without a name it is the server's drafter. Positions are those of drafters,
        without what a grammar forces.
        """
        source = drafter or self._source
        self._counters["tgi_speculative_drafted_tokens"].labels(source).inc(drafted)
        self._counters["tgi_speculative_accepted_tokens"].labels(source).inc(accepted)
        self._skipped.observe(accepted)
        if source != GRAMMAR:
            self._positions.add(drafted, accepted)

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
        self._gauges["tgi_estimated_work_seconds"].set(status.work)
        self._gauges["tgi_estimated_wait_seconds"].set(status.wait)
        for level, waiting in enumerate(status.waiting):
            self._queue_depth.labels(str(level)).set(waiting)
        for action, count in status.preemptions.items():
            new = count - self._preempted.get(action, 0)
            self._counters["tgi_preemptions"].labels(action).inc(new)
        self._preempted = dict(status.preemptions)
        self._counters["tgi_preemptions_prefetched"].inc(status.prefetched - self._prefetched)
        self._prefetched = status.prefetched

    def update_admission(self, permits: int, paused: int, connections: int, refused: int) -> None:
        """Set permits held, streams paused, open connections, and those refused since the start."""
        self._gauges["tgi_streams_paused"].set(paused)
        self._gauges["tgi_permits_held"].set(permits)
        self._gauges["tgi_connections"].set(connections)
        self._counters["tgi_connections_refused"].inc(refused - self._refused)
        self._refused = refused

    def render(self) -> bytes:
        """Render all metrics in Prometheus' text format 0.0.4, UTF-8."""
        own = list(self._registry.collect())
        text = "" if self._names == "vllm" else exposition.text(own)
        if self._names != "tgi":
            aliases = vllm_names.families(own, self._model_name, self._capacity)
            text += exposition.text(aliases, total_suffix=True)
        return text.encode()

    def _observe_request(self, record: LiveRequest) -> None:
        self._durations["tgi_request_validation_duration"].observe(record.queued - record.arrived)
        self._sizes["tgi_request_input_length"].observe(len(record.prompt))
        self._sizes["tgi_request_max_new_tokens"].observe(record.max_new)

    def _observe_success(self, record: LiveRequest) -> None:
        self._counters["tgi_request_success"].inc()
        if record.finish_reason is not None:
            self._counters["tgi_request_finished"].labels(record.finish_reason).inc()
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


def _create_series(
    metrics: Mapping[str, Counter] | Mapping[str, Histogram],
    declared: Mapping[str, tuple[str, Labels]],
) -> None:
    """Create every series whose label is known, at zero."""
    for name, (_, labels) in declared.items():
        for value in chain.from_iterable(labels.values()):
            metrics[name].labels(value)


def _totals(counter: Counter) -> Iterator[Sample]:
    samples = chain.from_iterable(metric.samples for metric in counter.collect())
    return (sample for sample in samples if sample.name.endswith("_total"))


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
