"""Writes metric families in Prometheus' text format 0.0.4.

prometheus_client's own writer renames counters to `*_total` and adds `*_created`, which would leave
the panels of TGI's Grafana dashboard empty. What the families mean is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def text(families: Iterable[Metric], *, total_suffix: bool = False) -> str:
    """The lines of `families`; counters end with `_total` only if `total_suffix`."""
    return "".join(chain.from_iterable(_lines(family, total_suffix) for family in families))


def _lines(metric: Metric, total_suffix: bool) -> Iterator[str]:
    bare = metric.type == "counter" and not total_suffix
    name = f"{metric.name}_total" if metric.type == "counter" and total_suffix else metric.name
    yield f"# HELP {name} {metric.documentation}\n"
    yield f"# TYPE {name} {metric.type}\n"
    for sample in metric.samples:
        if not sample.name.endswith("_created"):
            yield _line(metric.name if bare else sample.name, sample)


def _line(name: str, sample: Sample) -> str:
    labels = ",".join(
        f'{key}="{value.translate(_ESCAPES)}"' for key, value in sample.labels.items()
    )
    return f"{name}{{{labels}}} {sample.value!r}\n" if labels else f"{name} {sample.value!r}\n"
