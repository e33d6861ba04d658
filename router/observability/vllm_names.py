"""The metrics under vLLM's names, so that dashboards and routers written for vLLM can read them.

Pure: our metric families in, vLLM's out, derived at each scrape. Names, types and labels are vLLM's
(`vllm/v1/metrics/loggers.py`); histograms keep our buckets. What we do not measure has no alias.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

from router.scheduler.api import DeviceCapacity


@dataclass(frozen=True, slots=True)
class Source:
    """Series of one of our metrics."""

    name: str
    """Of the metric."""
    label: str | None = None
    """The label by which series are selected and renamed; None: all series are added up."""
    values: Mapping[str, str] = field(default_factory=dict)
    """For each value of `label` that counts: the value of the alias' label; empty: all, as is."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A metric of vLLM's."""

    name: str
    kind: str
    help: str
    sources: tuple[Source, ...]
    label: str | None = None
    """The label that distinguishes its series, besides the model and the engine."""


_ENGINE = {"engine": "0"}
"""vLLM numbers its engines; here there is one."""
_DROPPED = {"dropped": "abort", "cancelled": "abort"}
_FAILED = dict.fromkeys(("generation", "incomplete", "unavailable", "quarantined"), "error")
_FINISHED = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}
_TAKEN_PAGES = {"swap": "", "recompute": ""}

ALIASES = (
    Alias(
        "num_requests_running", "gauge", "Requests in the batch", (Source("tgi_requests_running"),)
    ),
    Alias("num_requests_waiting", "gauge", "Requests that wait", (Source("tgi_queue_size"),)),
    Alias(
        "kv_cache_usage_perc", "gauge", "KV cache in use, 0 to 1", (Source("tgi_kv_cache_usage"),)
    ),
    Alias("prompt_tokens", "counter", "Prompt tokens", (Source("tgi_prompt_tokens"),)),
    Alias("generation_tokens", "counter", "Output tokens", (Source("tgi_output_tokens"),)),
    Alias(
        "num_preemptions",
        "counter",
        "Preempted requests that lost their pages",
        (Source("tgi_preemptions", "action", _TAKEN_PAGES),),
    ),
    Alias(
        "request_success",
        "counter",
        "Finished requests",
        (
            Source("tgi_request_finished", "reason", _FINISHED),
            Source("tgi_request_failure", "err", _DROPPED | _FAILED),
        ),
        label="finished_reason",
    ),
    Alias(
        "time_to_first_token_seconds",
        "histogram",
        "Seconds from arrival to the first token",
        (Source("tgi_request_ttft_duration"),),
    ),
    Alias(
        "inter_token_latency_seconds",
        "histogram",
        "Seconds between the tokens of a request",
        (Source("tgi_request_inter_token_duration"),),
    ),
    Alias(
        "e2e_request_latency_seconds",
        "histogram",
        "Seconds from arrival to the last token",
        (Source("tgi_request_duration"),),
    ),
)
DRAFT_ALIASES = (
    Alias("spec_decode_num_drafts", "counter", "Drafts", (Source("tgi_request_skipped_tokens"),)),
    Alias(
        "spec_decode_num_draft_tokens",
        "counter",
        "Draft tokens",
        (Source("tgi_speculative_drafted_tokens"),),
    ),
    Alias(
        "spec_decode_num_accepted_tokens",
        "counter",
        "Accepted draft tokens",
        (Source("tgi_speculative_accepted_tokens"),),
    ),
    Alias(
        "spec_decode_num_accepted_tokens_per_pos",
        "counter",
        "Accepted draft tokens, by position",
        (Source("tgi_speculative_position_accepted", "position"),),
        label="position",
    ),
)
"""Those that a server without drafts does not have."""


def families(own: Iterable[Metric], model_name: str, capacity: DeviceCapacity) -> Iterator[Metric]:
    """vLLM's metrics, with the values of our metrics `own`."""
    by_name = {metric.name: metric for metric in own}
    labels = {"model_name": model_name, **_ENGINE}
    yield _cache_config(capacity)
    for alias in (*ALIASES, *(DRAFT_ALIASES if capacity.speculate else ())):
        family = Metric(f"vllm:{alias.name}", alias.help, alias.kind)
        if alias.kind == "histogram":
            family.samples = _renamed(by_name[alias.sources[0].name], family.name, labels)
        else:
            family.samples = _added_up(alias, by_name, family.name, labels)
        yield family


def _cache_config(capacity: DeviceCapacity) -> Metric:
    family = Metric("vllm:cache_config_info", "Size of the KV cache", "gauge")
    sizes = {"block_size": str(capacity.page_size), "num_gpu_blocks": str(capacity.pages)}
    family.add_sample(family.name, sizes | _ENGINE, 1.0)
    return family


def _renamed(metric: Metric, name: str, labels: Mapping[str, str]) -> list[Sample]:
    """The samples of a histogram under another name, `le` last as Prometheus has it."""
    return [
        Sample(
            name + sample.name.removeprefix(metric.name), {**labels, **sample.labels}, sample.value
        )
        for sample in metric.samples
    ]


def _added_up(
    alias: Alias, own: Mapping[str, Metric], name: str, labels: Mapping[str, str]
) -> list[Sample]:
    sums: dict[str, float] = {}
    for source in alias.sources:
        for sample in _counts(own[source.name]):
            value = _alias_value(source, sample)
            if value is not None:
                sums[value] = sums.get(value, 0.0) + sample.value
    suffix = "_total" if alias.kind == "counter" else ""
    return [
        Sample(name + suffix, {**labels, **({alias.label: value} if alias.label else {})}, total)
        for value, total in sums.items()
    ]


def _counts(metric: Metric) -> Iterator[Sample]:
    """The samples that hold a value: of a summary, the number of observations."""
    suffix = {"counter": "_total", "summary": "_count"}.get(metric.type, "")
    return (sample for sample in metric.samples if sample.name == metric.name + suffix)


def _alias_value(source: Source, sample: Sample) -> str | None:
    """The value of the alias' label for `sample`; None if it does not count."""
    if source.label is None:
        return ""
    value = sample.labels[source.label]
    return source.values.get(value) if source.values else value
